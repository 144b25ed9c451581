"""Rows about reading: one run, the whole log, and the rebuild of `runs` with its memory."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from operator import or_
from typing import Any
from uuid import UUID

import msgspec
from eventsourcing.persistence import ApplicationRecorder, StoredEvent

import ledger
from ledger.envelope import Envelope
from ledger.run.events import EVENT_TYPES
from projections import rebuild
from projections.decoding import FoldEnvelope, FoldEvent
from projections.runs import RUNS, RunRow
from tests.benchmarks.appends import new_run
from tests.benchmarks.databases import Database, RawLog, Stored, chunks, closing, vacuum
from tests.benchmarks.measure import Line, Peer, at_least, at_most, rate_line, take_turns
from tests.benchmarks.session import Session
from tests.benchmarks.work import log_rows, result_event

LOG_EVENTS = 200_000
RUN_EVENTS = 10_000
ROWS_AT_ONCE = 10_000
_decode_envelope = msgspec.json.Decoder(Envelope).decode
_decode_payload: Callable[[bytes], Any] = msgspec.json.Decoder(reduce(or_, EVENT_TYPES)).decode


def read_run(session: Session) -> Iterator[Line]:
    """One run of 10,000 events, decoded."""
    events = session.scaled(RUN_EVENTS)
    for database in session.databases:
        url = database.new_ledger()
        with ledger.open(url) as log:
            run = new_run(log)
            log.append(run, [result_event(number) for number in range(events - 2)])
            raw = database.open_raw(url)
            with closing(raw):
                turns = take_turns(
                    {
                        "ours": _counting(events, lambda log=log, run=run: log.read(run)),
                        **_raw_readers(events, lambda raw=raw, run=run: raw.read_run(run)),
                    },
                    rounds=session.rounds * 3,
                )
        yield from _reading_lines(f"read one run of {events:,} events", database, turns, None)


def read_log(session: Session) -> Iterator[Line]:
    """The whole log, decoded into typed events."""
    events = session.scaled(LOG_EVENTS)
    for database in session.databases:
        url = filled_ledger(database, events)
        raw = database.open_raw(url)
        with ledger.open(url) as log, closing(raw):
            turns = take_turns(
                {
                    "ours": _counting(events, lambda log=log: log.read_all()),
                    **_raw_readers(events, lambda raw=raw: raw.read_log()),
                },
                rounds=session.rounds,
            )
        yield from _reading_lines(f"read the log of {events:,} events", database, turns, 0.80)


def _reading_lines(name: str, database: Database, turns: Any, goal: float | None) -> Iterator[Line]:
    held = None if goal is None else at_least(goal)
    yield rate_line(name, database.name, turns, "raw SELECT, payload and envelope decoded", held)
    yield rate_line(name, database.name, turns, "raw SELECT, payload decoded")


def _counting(events: int, read: Callable[[], Iterable[object]]) -> Peer:
    def rate() -> float:
        begun = time.perf_counter()
        seen = sum(1 for _ in read())
        ended = time.perf_counter()
        assert events == seen, f"{seen} of {events} events were read"
        return events / (ended - begun)

    return rate


def _raw_readers(events: int, read: Callable[[], Iterator[Stored]]) -> dict[str, Peer]:
    def whole() -> Iterator[object]:
        for position, version, envelope, payload in read():
            yield position, version, _decode_envelope(envelope), _decode_payload(payload)

    def payloads() -> Iterator[object]:
        for _, _, _, payload in read():
            yield _decode_payload(payload)

    return {
        "raw SELECT, payload and envelope decoded": _counting(events, whole),
        "raw SELECT, payload decoded": _counting(events, payloads),
    }


def filled_ledger(database: Database, events: int, *, recorder: ApplicationRecorder | None = None) -> str:
    """Make a ledger with a log of whole runs, and give its URL; the recorder gets the same payloads."""
    url = database.new_ledger()
    raw: RawLog = database.open_raw(url)
    with closing(raw):
        for rows in chunks(log_rows(events), ROWS_AT_ONCE):
            raw.insert_many(rows)
            if recorder is not None:
                recorder.insert_events([StoredEvent(UUID(row[0]), row[1], row[3], row[5]) for row in rows])
    vacuum(url)
    return url


def rebuild_runs(session: Session) -> Iterator[Line]:
    """`runs` made anew from the log, rows written and all."""
    events = session.scaled(LOG_EVENTS)
    for database in session.databases:
        recorder = database.new_recorder()
        url = filled_ledger(database, events, recorder=recorder)
        raw = database.open_raw(url)
        with ledger.open(url) as log, closing(raw):
            turns = take_turns(
                {
                    "ours": _per_second(events, lambda log=log: rebuild(log)),
                    **_raw_readers(events, lambda raw=raw: raw.read_log()),
                    "eventsourcing recorder, select and fold": _per_second(
                        events, lambda recorder=recorder: _fold_recorded(recorder, events)
                    ),
                },
                rounds=session.rounds,
            )
        name = f"rebuild `runs` from {events:,} events"
        yield rate_line(name, database.name, turns, "raw SELECT, payload and envelope decoded", at_least(0.5))
        yield rate_line(name, database.name, turns, "raw SELECT, payload decoded")
        yield rate_line(name, database.name, turns, "eventsourcing recorder, select and fold", at_least(4))


def _per_second(events: int, work: Callable[[], object]) -> Peer:
    def rate() -> float:
        begun = time.perf_counter()
        work()
        return events / (time.perf_counter() - begun)

    return rate


def _fold_recorded(recorder: ApplicationRecorder, events: int) -> int:
    """Fold what the recorder selects into the same rows, in memory; nothing is written."""
    rows: dict[str, RunRow] = {}
    start, seen = 1, 0
    while notifications := recorder.select_notifications(start, 5_000):
        streams: dict[str, list[FoldEvent]] = {}
        for notification in notifications:
            run_id = str(notification.originator_id)
            event = FoldEvent(
                int(notification.id),
                notification.originator_version,
                FoldEnvelope("2026-03-01T12:00:00.000000Z", run_id),
                _decode_payload(notification.state),
            )
            streams.setdefault(run_id, []).append(event)
        for run_id, stream in streams.items():
            rows[run_id] = RUNS.fold(rows.get(run_id), stream)
        seen += len(notifications)
        start = int(notifications[-1].id) + 1
    assert events == seen, f"{seen} of {events} events were selected"
    return len(rows)


def memory(session: Session) -> Iterator[Line]:
    """The most memory that a rebuild takes, beyond what the process has when the ledger is open."""
    for database in session.databases:
        grown: list[float] = []
        for events in (session.scaled(LOG_EVENTS), session.scaled(LOG_EVENTS * 2)):
            url = filled_ledger(database, events)
            base, peak = _peak_mb(url)
            grown.append(peak - base)
            yield Line(
                f"memory of a rebuild from {events:,} events",
                database.name,
                f"{peak:.1f} MB",
                f"ledger opened: {base:.1f} MB",
                peak - base,
                at_most(20, " MB more"),
            )
        yield Line(
            "memory of a rebuild, twice the log", database.name, f"{grown[1]:.1f} MB", f"once: {grown[0]:.1f} MB",
            grown[1] / grown[0], at_most(1.1),
        )  # fmt: skip


# `VmHWM` and not `ru_maxrss`: the latter starts at what the parent had.
_MEASURED_REBUILD = """
import re, sys
import ledger
from projections import Runs, rebuild

def peak_kb():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

with ledger.open(sys.argv[1]) as log:
    next(iter(log.read_all(page_size=1)))
    Runs(log)
    base = peak_kb()
    rebuild(log)
    print(base, peak_kb())
"""


def _peak_mb(url: str) -> tuple[float, float]:
    done = subprocess.run([sys.executable, "-c", _MEASURED_REBUILD, url], capture_output=True, text=True, check=True)
    base, peak = done.stdout.split()
    return int(base) / 1024, int(peak) / 1024
