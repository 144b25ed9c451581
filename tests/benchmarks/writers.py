"""Many writers at once, as threads of one process or as processes, each appending one result at a time.

Every writer is ready before the first begins. They run in processes of their own, so that the process that measures
has no thread and no connection that could disturb them.
"""

import multiprocessing
import multiprocessing.context
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

import ledger
from ledger import VersionConflict
from ledger.envelope import SALT_BYTES
from ledger.events import RunId
from ledger.ids import new_event_ids, new_salts
from ledger.run.codec import to_new_events
from ledger.store import AppendRequest, exactly
from tests.benchmarks.databases import RawPostgres, RawSqlite, connect_sqlite
from tests.benchmarks.work import NOW, a_result, raw_row, result_event

_READY_TIMEOUT_S = 120
WARM_UPS = 20
"""Appends of each writer before the race: connections are there then, and statements planned for good."""

Append = Callable[[int], None]
"""Appends one result, durably; it is told which one."""


class Writers(Protocol):
    """What the writers of one process share."""

    def writer(self, run_id: str) -> Append:
        """Give one writer, from the thread that uses it."""

    def close(self) -> None: ...


class Ours:
    """Runfold, as anybody uses it."""

    def __init__(self, url: str) -> None:
        self._log = ledger.open(url)

    def writer(self, run_id: str) -> Append:
        def append(number: int) -> None:
            assert 1 == self._log.append_results(run_id, [a_result(number)])

        return append

    def close(self) -> None:
        self._log.close()


class ExactVersion:
    """The same store, each writer on the version that it saw; the refusal itself says where to try again, which is
    kinder than the usual way of reading the stream first."""

    def __init__(self, url: str) -> None:
        self._log = ledger.open(url)

    def writer(self, run_id: str) -> Append:
        store, run = self._log.store, RunId(run_id)
        version = 0

        def append(number: int) -> None:
            nonlocal version
            events = to_new_events(
                [result_event(number)],
                run_id=run,
                recorded_at=NOW,
                event_ids=new_event_ids(1),
                salts=new_salts(1, size_bytes=SALT_BYTES),
            )
            while True:
                try:
                    version = store.append(AppendRequest(run, exactly(version), events)).version
                    return
                except VersionConflict as conflict:
                    version = conflict.version

        return append

    def close(self) -> None:
        self._log.close()


class RawOwnRun:
    """Plain inserts, each writer into a run of its own, so that it can count versions by itself."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._opened: list[RawSqlite | RawPostgres] = []

    def writer(self, run_id: str) -> Append:
        raw = self._open()

        def append(number: int) -> None:
            raw.insert(raw_row(run_id, number, _event_number(run_id, number)))

        return append

    def close(self) -> None:
        for raw in self._opened:
            raw.close()

    def _open(self) -> RawSqlite | RawPostgres:
        raw = RawSqlite(self._url) if self._url.startswith("sqlite") else RawPostgres(self._url)
        self._opened.append(raw)
        return raw


class RawOneRun(RawOwnRun):
    """Plain inserts at the next version of one run, a commit each; on PostgreSQL under a lock of the run."""

    def writer(self, run_id: str) -> Append:
        raw, writer = self._open(), new_event_ids(1)[0]

        def append(number: int) -> None:
            raw.insert_next(raw_row(run_id, 0, _event_number(writer, number)))

        return append


def _event_number(key: str, number: int) -> int:
    return hash((key, number)) & 0xFFFF_FFFF_FFFF


PEERS: dict[str, Callable[[str], Writers]] = {
    "ours": Ours,
    "exact-version retry": ExactVersion,
    "raw, own run": RawOwnRun,
    "raw, one run": RawOneRun,
}


@dataclass(frozen=True, slots=True)
class Race:
    """Who writes what.

    Attributes:
        peer: One of `PEERS`.
        url: Where.
        run_ids: One a writer.
        threads: How many writers are threads of one process; the others are processes likewise.
        appends: How many each makes.
        first: Number of the first.
        warm_ups: How many each makes before that, unmeasured.
        sync_delay_s: Added to each fsync, on SQLite.
    """

    peer: str
    url: str
    run_ids: Sequence[str]
    threads: int
    appends: int
    first: int = 1
    warm_ups: int = WARM_UPS
    sync_delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Finish:
    """How a race went.

    Attributes:
        rate: Appends a second over all writers.
        latencies_s: Of every append.
    """

    rate: float
    latencies_s: Sequence[float]


def processes_context() -> multiprocessing.context.ForkServerContext:
    """Give the way to start processes: forks of one that has imported everything and opened nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["tests.benchmarks.writers", "tests.benchmarks.subscribers", "tests.benchmarks.queues"]
    )
    return context


def run_race(race: Race) -> Finish:
    """Let the writers run and give what they reached."""
    context = processes_context()
    parts = [race.run_ids[start : start + race.threads] for start in range(0, len(race.run_ids), race.threads)]
    barrier = context.Barrier(len(parts))
    pipes = [context.Pipe(duplex=False) for _ in parts]
    processes = [
        context.Process(target=_process, args=(race, part, barrier, sender), daemon=True)
        for part, (_, sender) in zip(parts, pipes, strict=True)
    ]
    for process in processes:
        process.start()
    for _, sender in pipes:
        sender.close()
    reports = [receiver.recv() for receiver, _ in pipes]
    for process in processes:
        process.join()
    begun, ended = min(report[0] for report in reports), max(report[1] for report in reports)
    latencies = [latency for report in reports for latency in report[2]]
    assert len(race.run_ids) * race.appends == len(latencies)
    return Finish(len(latencies) / (ended - begun), latencies)


def _process(race: Race, run_ids: Sequence[str], barrier: Any, report: Connection) -> None:
    if race.sync_delay_s:
        from tests.benchmarks.slow_disk import slow_down

        slow_down(race.sync_delay_s)
    keep_open = connect_sqlite(race.url) if race.url.startswith("sqlite") else None
    writers = PEERS[race.peer](race.url)
    gate = threading.Barrier(len(run_ids), action=lambda: barrier.wait(_READY_TIMEOUT_S))
    results: list[tuple[float, float, list[float]]] = []
    threads = [
        threading.Thread(target=_write, args=(race, writers, run_id, gate, results), daemon=True) for run_id in run_ids
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report.send((min(r[0] for r in results), max(r[1] for r in results), [x for r in results for x in r[2]]))
    writers.close()
    if keep_open is not None:
        keep_open.close()


def _write(
    race: Race,
    writers: Writers,
    run_id: str,
    gate: threading.Barrier,
    results: list[tuple[float, float, list[float]]],
) -> None:
    append = writers.writer(run_id)
    for number in range(race.first, race.first + race.warm_ups):
        append(number)
    gate.wait(_READY_TIMEOUT_S)
    latencies: list[float] = []
    begun = last = time.monotonic()
    first = race.first + race.warm_ups
    for number in range(first, first + race.appends):
        append(number)
        now = time.monotonic()
        latencies.append(now - last)
        last = now
    results.append((begun, last, latencies))
