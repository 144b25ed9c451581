"""What is written in every benchmark, whoever writes it: the same results, in the same shape of row."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import msgspec

from ledger.envelope import SALT_BYTES
from ledger.ids import new_event_ids, new_run_id, new_salts
from ledger.run.codec import to_new_events
from ledger.run.events import (
    Completed,
    Enqueued,
    RunEvent,
    ShardCompleted,
    ShardResultAppended,
    Started,
    StatsIncremented,
)
from ledger.run.values import JsonObject

Row = tuple[str, int, str, str, bytes, bytes, bytes, bool, None, None]
"""The columns of `events`, without the position."""

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
EVENTS_PER_RUN = 20
RUNS_AT_ONCE = 50
"""Runs whose events lie between one another in a filled log, as those of parallel runs do."""

_encode = msgspec.json.encode
_SALT = bytes(SALT_BYTES)
_COMMITMENT = "0" * 64
_TYPE = "shard_result_appended"


def a_result(number: int) -> JsonObject:
    """Give one test result of about 110 bytes."""
    return {
        "testId": f"tests/algorithms/test_paths.py::test_case[{number}]",
        "status": "failed" if number % 20 == 0 else "passed",
        "durationMs": 12.5,
        "attempt": 1,
    }


def raw_row(run_id: str, version: int, number: int) -> Row:
    """Make the same row as an append of one result, with nothing but msgspec: no check, no hash, no salt of its own."""
    event_id = f"0192f3a0-0000-7000-9000-{number:012x}"
    envelope = {
        "commitment": _COMMITMENT,
        "event_id": event_id,
        "recorded_at": "2026-03-01T12:00:00.000000Z",
        "run_id": run_id,
        "schema_version": 1,
        "type": _TYPE,
    }
    payload = {"results": [a_result(number)], "type": _TYPE}
    return (run_id, version, event_id, _TYPE, _encode(envelope), _encode(payload), _SALT, False, None, None)


def result_event(number: int) -> ShardResultAppended:
    return ShardResultAppended(results=[a_result(number)])


def log_rows(events: int) -> Iterator[Row]:
    """Make the rows of a log of whole runs, `EVENTS_PER_RUN` events each, `RUNS_AT_ONCE` of them at a time."""
    for start in range(0, events // EVENTS_PER_RUN, RUNS_AT_ONCE):
        count = min(RUNS_AT_ONCE, events // EVENTS_PER_RUN - start)
        streams = [list(_stream(start + index)) for index in range(count)]
        for together in zip(*streams, strict=True):
            yield from together


def _stream(number: int) -> Iterator[Row]:
    run_id = new_run_id()
    new = to_new_events(
        _life(number),
        run_id=run_id,
        recorded_at=NOW + timedelta(seconds=number),
        event_ids=new_event_ids(EVENTS_PER_RUN),
        salts=new_salts(EVENTS_PER_RUN, size_bytes=SALT_BYTES),
    )
    for version, event in enumerate(new, 1):
        yield (
            run_id, version, event.event_id, event.type, event.envelope, event.payload, event.salt, event.closes,
            None, None,
        )  # fmt: skip


def _life(number: int) -> list[RunEvent]:
    """A run of one shard: results one by one, counters, its end."""
    at = NOW + timedelta(seconds=number)
    results: list[RunEvent] = [
        ShardResultAppended(results=[a_result(number + index)], shard=0, first_sequence=index)
        for index in range(EVENTS_PER_RUN - 5)
    ]
    return [
        Enqueued(kind="test", project="web", enqueued_at=at, shard_count=1, labels={"branch": "main"}),
        Started(attempt=1, started_at=at, worker="w1"),
        *results,
        StatsIncremented(total=0),
        ShardCompleted(shard=0, exit_code=0),
        Completed(finished_at=at + timedelta(seconds=30)),
    ]
