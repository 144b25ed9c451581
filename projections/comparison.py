"""Compares what two runs say of their tests."""

import msgspec

from ledger.api import Ledger
from ledger.conversion import converter
from ledger.run.values import check_uuid
from projections.result_reader import Results


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What became of each test from one run to another; ids in their order.

    Attributes:
        flipped: In both, with another outcome.
        added: In the newer run only.
        removed: In the older run only.
        unchanged: In both, with the same outcome.
    """

    flipped: list[str]
    added: list[str]
    removed: list[str]
    unchanged: list[str]

    @property
    def total(self) -> int:
        return len(self.flipped) + len(self.added) + len(self.removed) + len(self.unchanged)


_as_comparison = converter(Comparison)


def compare(log: Ledger, older_run_id: str, newer_run_id: str) -> Comparison:
    """Compare two runs by the outcomes of their tests: passed, failed or skipped.

    A test with several results in a run (iterations, say) failed when one of them did, else passed when one of them
    did. Results without a test id are left out.

    Raises:
        InvalidInput: when an id is no UUID.
        RunNotFound: when there is no such run.
    """
    if hasattr(log, "ask"):  # behind a server, which compares
        older_id, newer_id = check_uuid(older_run_id, field="older"), check_uuid(newer_run_id, field="newer")
        return _as_comparison(log.ask(f"/v1/runs/{older_id}:compare", {"newer": newer_id}))
    results = Results(log)
    older, newer = _outcomes(results, older_run_id), _outcomes(results, newer_run_id)
    both = sorted(older.keys() & newer.keys())
    return Comparison(
        flipped=[test_id for test_id in both if older[test_id] != newer[test_id]],
        added=sorted(newer.keys() - older.keys()),
        removed=sorted(older.keys() - newer.keys()),
        unchanged=[test_id for test_id in both if older[test_id] == newer[test_id]],
    )


_WEIGHT: dict[str, int] = {"failed": 2, "passed": 1, "skipped": 0}


def _outcomes(results: Results, run_id: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for row in results.outcomes(run_id):
        if row.test_id is not None:
            known = found.get(row.test_id)
            found[row.test_id] = row.outcome if known is None else max(known, row.outcome, key=_WEIGHT.__getitem__)
    return found
