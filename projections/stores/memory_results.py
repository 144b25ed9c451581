"""The tables of `results` in memory.

Differs from its siblings: every question but those about one run looks at every row.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final, cast

from ledger.store import Store
from ledger.stores.memory import MemoryStore
from projections.results import (
    LAYOUT,
    RESULTS,
    OutcomeRow,
    RankedTest,
    RankingFilter,
    ResultRow,
    ResultsState,
    restore,
)
from projections.stores.memory_details import MemoryDetails


def open_tables(store: Store) -> "MemoryResults":
    """Give the tables beside a log in memory."""
    return MemoryResults(cast(MemoryStore, store), RESULTS, LAYOUT, restore)


class MemoryResults(MemoryDetails[ResultsState]):
    """The tables of `results`, and what is asked of them."""

    def of_run(self, generation: int, run_id: str, *, after: int, limit: int) -> Sequence[ResultRow] | None:
        rows = self._dicts(generation, run_id, after, limit)
        return None if rows is None else [_row(run_id, row) for row in rows]

    def outcomes(self, generation: int, run_id: str, *, after: int, limit: int) -> Sequence[OutcomeRow] | None:
        rows = self._dicts(generation, run_id, after, limit)
        return None if rows is None else [OutcomeRow(row["number"], row["test_id"], row["outcome"]) for row in rows]

    def of_test(
        self, generation: int, test: bytes, *, project: str | None, kind: str | None, limit: int
    ) -> Sequence[ResultRow] | None:
        with self._live(generation) as live:
            if live is None:
                return None
            found = [
                _row(header.run_id, row)
                for header, row in self._all(live)
                if row["test"] == test
                and (project is None or row["project"] == project)
                and (kind is None or row["kind"] == kind)
            ]
        found.sort(key=lambda row: (row.created_at, row.run_id, row.number), reverse=True)
        return found[:limit]

    def ranked(self, generation: int, wanted: RankingFilter) -> Sequence[RankedTest] | None:
        with self._live(generation) as live:
            if live is None:
                return None
            headers = [
                kept.header
                for kept in live.values()
                if kept.header.project == wanted.project
                and kept.header.created_at >= wanted.since
                and kept.header.deleted_at is None
                and kept.header.row_count
            ]
            headers.sort(key=lambda header: (header.created_at, header.run_id), reverse=True)
            recent = {header.run_id for header in headers[: wanted.runs]}
            rows = [(header.run_id, row) for header, row in self._all(live) if header.run_id in recent]
        rows.sort(key=lambda item: (item[1]["created_at"], item[0], item[1]["number"]))
        by_test: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
        for run_id, row in rows:
            if row["test_id"] is not None and row["outcome"] != "skipped":
                by_test[row["test_id"]][run_id].append(row)
        is_ranked, order = _RANKING[wanted.ranking]
        tests = [
            test
            for test in (_summed(test_id, [_one(rows) for rows in runs.values()]) for test_id, runs in by_test.items())
            if is_ranked(test)
        ]
        return sorted(tests, key=order)[: wanted.limit]

    def _dicts(self, generation: int, run_id: str, after: int, limit: int) -> list[dict[str, Any]] | None:
        rows = self.rows_of(generation, run_id, after=after, limit=limit)
        return None if rows is None else [dict(zip(self._columns, row, strict=True)) for row in rows]


def _row(run_id: str, row: dict[str, Any]) -> ResultRow:
    return ResultRow(run_id, *[row[name] for name in ResultRow._fields[1:]])


def _one(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Make one of what a run reports of a test: failed if one of it failed, as one of a tear-down."""
    durations = [row["duration_us"] for row in rows if row["duration_us"] is not None]
    return {
        "outcome": min(row["outcome"] for row in rows),
        "is_retried": max(row["is_retried"] for row in rows),
        "duration_us": sum(durations) if durations else None,
    }


def _summed(test_id: str, rows: Sequence[dict[str, Any]]) -> RankedTest:
    durations = [row["duration_us"] for row in rows if row["duration_us"] is not None]
    flipped = [False, *[before["outcome"] != row["outcome"] for before, row in pairwise(rows)]]
    return RankedTest(
        test_id,
        len(rows),
        sum(row["outcome"] == "failed" for row in rows),
        sum(bool(row["is_retried"]) or flip for row, flip in zip(rows, flipped, strict=True)),
        len(durations),
        sum(durations),
        max(durations, default=None),
    )


_RANKING: Final[dict[str, tuple[Callable[[RankedTest], bool], Callable[[RankedTest], Any]]]] = {
    "flaky": (
        lambda test: test.unsteady > 0,
        lambda test: (-(test.unsteady / test.executed), -test.unsteady, test.test_id.encode()),
    ),
    "slowest": (lambda test: test.timed > 0, lambda test: (-(test.duration_us / test.timed), test.test_id.encode())),
    "failing": (
        lambda test: test.failed > 0,
        lambda test: (-test.failed, -(test.failed / test.executed), test.test_id.encode()),
    ),
}
