"""Which tests a run is to execute, and how they are dealt out to its shards: read from a file, cut, or balanced."""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from ledger.api import Ledger

_BYTES_MAX: Final = 16 * 1024 * 1024
"""Of a list of tests: far above what a run can plan."""


def read_test_ids(path: str) -> list[str]:
    """Read the ids of tests, one a line; each counts once, and empty lines do not.

    Args:
        path: A file, or `-` for stdin.

    Raises:
        click.UsageError: when it cannot be read, or holds no test.
    """
    try:
        if path == "-":
            content = sys.stdin.buffer.read(_BYTES_MAX + 1)
        else:
            with open(path, "rb") as file:
                content = file.read(_BYTES_MAX + 1)
        if len(content) > _BYTES_MAX:
            raise ValueError(f"it has more than {_BYTES_MAX:,} bytes")
        text = content.decode()
    except (OSError, ValueError) as exc:
        raise click.UsageError(f"--tests cannot be read: {exc}. Give a file with an id on each line, or -.") from exc
    ids = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not ids:
        raise click.UsageError("--tests names no test. Give a file with an id on each line, or - for stdin.")
    return ids


def planned(
    log: "Ledger",
    test_ids: Sequence[str],
    *,
    shard_count: int,
    kind: str,
    project: str | None,
    idempotency_key: str | None,
    is_balanced: bool,
) -> list[list[str]]:
    """Deal tests out to shards.

    Args:
        log: The ledger, which knows how long tests took.
        test_ids: The tests.
        shard_count: How many shards.
        kind: Of the run.
        project: Of the run.
        idempotency_key: Of the run. What was planned under it before is planned again: durations change meanwhile,
            and a repeated command means the same run.
        is_balanced: Whether shards are to take equally long; else they have equally many tests, in their order.
    """
    from ledger.run.shards import balance, partition

    if not is_balanced:
        return [list(piece) for piece in partition(test_ids, shard_count)]
    known = _planned_before(log, idempotency_key, project)
    if len(known) == shard_count and sorted(test_ids) == sorted(test_id for piece in known for test_id in piece):
        return known
    return balance(test_ids, shard_count, durations=known_durations(log, test_ids, kind=kind, project=project))


def _planned_before(log: "Ledger", idempotency_key: str | None, project: str | None) -> list[list[str]]:
    from ledger.run.events import Enqueued

    run_id = None if idempotency_key is None else log.find_by_idempotency_key(idempotency_key, project=project)
    if run_id is None:
        return []
    first = next(log.read(run_id, up_to=1)).data
    return first.plan if isinstance(first, Enqueued) else []


def known_durations(log: "Ledger", test_ids: Sequence[str], *, kind: str, project: str | None) -> Mapping[str, float]:
    """Give how many milliseconds tests took when they were executed last, as far as a few newest runs know it.

    Args:
        log: The ledger.
        test_ids: The tests.
        kind: Of which runs.
        project: Of which runs; None is any.
    """
    from ledger.limits import LIST_ROWS_MAX, TIMED_RUNS_MAX
    from ledger.run.values import SKIPPED_RESULTS
    from projections import Results, Runs

    unknown, durations = set(test_ids), dict[str, float]()
    results = Results(log)
    for run in Runs(log).list(kind=kind, project=project, status="completed", limit=TIMED_RUNS_MAX).runs:
        token: str | None = None
        found = dict[str, float]()
        while unknown:
            page = results.of_run(run.run_id, limit=LIST_ROWS_MAX, page_token=token)
            for result in page.results:
                if (
                    result.test_id in unknown
                    and result.duration_ms is not None
                    and result.status not in SKIPPED_RESULTS
                ):
                    found[result.test_id] = found.get(result.test_id, 0.0) + result.duration_ms
            token = page.next_page_token
            if token is None:
                break
        durations |= found
        unknown -= found.keys()
    return durations
