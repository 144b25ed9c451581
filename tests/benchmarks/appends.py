"""Rows about writing: one append, many writers, batches and import, a run that grows."""

import time
from collections.abc import Callable, Iterator
from itertools import count
from uuid import UUID, uuid4

import msgspec
from eventsourcing.persistence import ApplicationRecorder, StoredEvent

import ledger
from ledger.events import RunId
from ledger.ids import new_run_id
from ledger.limits import EVENTS_PER_APPEND_MAX
from ledger.run.events import RunEvent
from ledger.store import unless_closed
from tests.benchmarks.databases import Database, closing
from tests.benchmarks.measure import Line, Peer, at_least, at_most, percentile, rate_line, take_turns
from tests.benchmarks.session import Session
from tests.benchmarks.work import a_result, raw_row, result_event
from tests.benchmarks.writers import WARM_UPS, Race, run_race

SLOW_SYNC_S = 0.002
GROWN_TO = (100, 1_000, 10_000, 50_000)


def per_second(amount: int, work: Callable[[], None]) -> float:
    """Do the work and give how much of it was done in a second."""
    begun = time.perf_counter()
    work()
    return amount / (time.perf_counter() - begun)


def new_run(log: ledger.Ledger) -> RunId:
    """Give a run that takes results."""
    run = log.enqueue("test", project="web")
    log.start(run.id, worker="w1")
    return run.id


def single_append(session: Session) -> Iterator[Line]:
    """One result an append, one after the other, each durable before the next."""
    appends = session.scaled(500)
    for database in session.databases:
        raw = database.open_raw(database.new_raw())
        log = ledger.open(database.new_ledger())
        spliced, recorder = database.new_spliced(), database.new_recorder()
        with closing(raw, log, spliced):
            run, raw_run, stored_run = new_run(log), new_run_id(), uuid4()
            numbers = count(1)

            def ours(log: ledger.Ledger = log, run: RunId = run) -> None:
                for number in range(appends):
                    log.append_results(run, [a_result(number)])

            def plain(raw=raw, run=raw_run, numbers=numbers) -> None:  # type: ignore[no-untyped-def]
                for _ in range(appends):
                    number = next(numbers)
                    raw.insert(raw_row(run, number, number))

            def splice(spliced=spliced) -> None:  # type: ignore[no-untyped-def]
                run = new_run_id()
                spliced.create(run, b"[]")
                for number in range(appends // 5):  # few, so that the row stays short
                    spliced.append(run, msgspec.json.encode([a_result(number)]))

            versions = count(1)

            def recorded(
                recorder: ApplicationRecorder = recorder, run: UUID = stored_run, versions: "count[int]" = versions
            ) -> None:
                for _ in range(appends):
                    recorder.insert_events([stored_event(run, next(versions))])

            turns = take_turns(
                {
                    "ours": lambda: per_second(appends, ours),
                    "raw insert": lambda: per_second(appends, plain),
                    "spliced row": lambda: per_second(appends // 5, splice),
                    "eventsourcing recorder": lambda: per_second(appends, recorded),
                },
                rounds=session.rounds,
            )
        name = "single durable append"
        yield rate_line(name, database.name, turns, "raw insert", at_least(0.75))
        yield rate_line(name, database.name, turns, "eventsourcing recorder")
        yield rate_line(name, database.name, turns, "spliced row")


def stored_event(run: UUID, version: int) -> StoredEvent:
    """Make the recorder's row of one result: its payload, encoded as everybody's."""
    state = msgspec.json.encode({"results": [a_result(version)], "type": "shard_result_appended"})
    return StoredEvent(run, version, "shard_result_appended", state)


def distinct_runs(session: Session) -> Iterator[Line]:
    """Writer processes, each on a run of its own."""
    for database in session.databases:
        url, raw_url = database.new_ledger(), database.new_raw()
        for writers in (8, 16):
            appends = session.scaled(4_800) // writers

            def race(peer: str, url: str, writers: int = writers, appends: int = appends) -> Peer:
                def run() -> float:
                    return run_race(Race(peer, url, _run_ids(url, peer, writers), 1, appends)).rate

                return run

            turns = take_turns(
                {"ours": race("ours", url), "raw insert": race("raw, own run", raw_url)}, rounds=session.rounds
            )
            goal = at_least(0.80) if database.name == "PostgreSQL" else None
            yield rate_line(f"{writers} processes, a run each", database.name, turns, "raw insert", goal)


def _run_ids(url: str, peer: str, writers: int) -> list[str]:
    if peer.startswith("raw"):
        return [new_run_id() for _ in range(writers)]
    with ledger.open(url) as log:
        return [new_run(log) for _ in range(writers)]


def one_run(session: Session) -> Iterator[Line]:
    """Writers, threads or processes, that append to one and the same run."""
    for database in session.databases:
        for kind in ("threads", "processes"):
            for writers in (8, 16, 32):
                yield from _one_run(session, database, writers, kind)


def slow_disk(session: Session) -> Iterator[Line]:
    """The same threads on one run, with 2 ms added to each fsync, for raw and ours alike."""
    for writers in (8, 16, 32):
        yield from _one_run(session, session.sqlite, writers, "threads", sync_delay_s=SLOW_SYNC_S)


def _one_run(
    session: Session, database: Database, writers: int, kind: str, *, sync_delay_s: float = 0.0
) -> Iterator[Line]:
    url, raw_url = database.new_ledger(), database.new_raw()
    appends = {  # the slow ones make fewer, so that a round does not take minutes
        "ours": max(4, session.scaled(1_600 if not sync_delay_s else 800) // writers),
        "raw, one run": max(4, session.scaled(800 if not sync_delay_s else 160) // writers),
        "exact-version retry": max(4, session.scaled(400) // writers),
    }
    warm_ups = 2 if sync_delay_s else WARM_UPS // 2
    threads = writers if kind == "threads" else 1
    slowest: list[float] = []

    def racing(peer: str, url: str) -> Peer:
        run_id = new_run_id() if peer.startswith("raw") else _run_ids(url, peer, 1)[0]

        def run() -> float:
            before = 0 if peer.startswith("raw") else _version(url, run_id)
            race = Race(
                peer, url, [run_id] * writers, threads, appends[peer], warm_ups=warm_ups, sync_delay_s=sync_delay_s
            )
            finish = run_race(race)
            if not peer.startswith("raw"):
                assert before + writers * (appends[peer] + warm_ups) == _version(url, run_id), (
                    "an append was lost or doubled"
                )
            if peer == "ours":
                slowest.append(percentile(finish.latencies_s, 99))
            return finish.rate

        return run

    peers = {"ours": racing("ours", url), "raw, a commit each": racing("raw, one run", raw_url)}
    if not sync_delay_s:
        peers["exact-version retry"] = racing("exact-version retry", url)
    turns = take_turns(peers, rounds=session.rounds)
    name = f"{writers} {kind}, one run" + (", fsync + 2 ms" if sync_delay_s else "")
    raw_goal = None
    if writers == 32 and kind == "threads":
        raw_goal = at_least(12 if sync_delay_s else 2.5 if database.name == "SQLite" else 4)
    yield rate_line(name, database.name, turns, "raw, a commit each", raw_goal)
    if not sync_delay_s:
        yield rate_line(name, database.name, turns, "exact-version retry", None if writers == 16 else at_least(3))
    p99_ms = percentile(slowest, 50) * 1_000
    p99_goal = at_most(50, " ms") if database.name == "PostgreSQL" else None
    yield Line(name + ": p99", database.name, f"{p99_ms:.1f} ms", "", p99_ms, p99_goal)


def _version(url: str, run_id: str) -> int:
    with ledger.open(url) as log:
        return log.state(run_id).version


def batches(session: Session) -> Iterator[Line]:
    """1,000 events an append, and 100,000 events as fast as it goes."""
    for name, batch, total, goal in (
        ("1,000 events an append", 1_000, session.scaled(20_000), 0.70),
        ("import of 100,000 events", 100_000, session.scaled(100_000), 0.60),
    ):
        for database in session.databases:
            raw_url = database.new_raw()
            raw, log = database.open_raw(raw_url), ledger.open(database.new_ledger())
            recorder = database.new_recorder()
            with closing(raw, log):
                peers = _batch_peers(raw, log, recorder, batch=min(batch, total), total=total)
                turns = take_turns(peers, rounds=session.rounds)
            raw_name = "raw executemany" if database.name == "SQLite" else "raw COPY"
            yield rate_line(name, database.name, turns, raw_name, at_least(goal))
            yield rate_line(name, database.name, turns, "eventsourcing recorder")


def _batch_peers(raw, log, recorder, *, batch: int, total: int) -> dict[str, Peer]:  # type: ignore[no-untyped-def]
    numbers = count(1)

    def ours() -> None:
        for start in range(0, total, batch):
            run, size = new_run(log), min(batch, EVENTS_PER_APPEND_MAX)
            for first in range(start, start + batch, size):
                events: list[RunEvent] = [result_event(number) for number in range(first, first + size)]
                log.append(run, events, when=unless_closed())

    def plain() -> None:
        for _ in range(0, total, batch):
            run = new_run_id()
            raw.insert_many(raw_row(run, version, next(numbers)) for version in range(1, batch + 1))

    def recorded() -> None:
        for _ in range(0, total, batch):
            run = uuid4()
            recorder.insert_events([stored_event(run, version) for version in range(1, batch + 1)])

    raw_name = "raw COPY" if type(raw).__name__ == "RawPostgres" else "raw executemany"
    return {
        "ours": lambda: per_second(total, ours),
        raw_name: lambda: per_second(total, plain),
        "eventsourcing recorder": lambda: per_second(total, recorded),
    }


def growth(session: Session) -> Iterator[Line]:
    """One more result, in a run that has 100 to 50,000 of them already."""
    appends = session.scaled(100)
    for database in session.databases:
        log, spliced = ledger.open(database.new_ledger()), database.new_spliced()
        with closing(log, spliced):
            peers: dict[str, Peer] = {}
            for size in GROWN_TO:
                run = new_run(log)
                for first in range(0, size, 1_000):
                    events: list[RunEvent] = [result_event(number) for number in range(first, min(size, first + 1_000))]
                    log.append(run, events)
                row = new_run_id()
                spliced.create(row, msgspec.json.encode([a_result(number) for number in range(size)]))
                peers[f"ours {size}"] = _append_cost(lambda r, run=run, log=log: log.append_results(run, [r]), appends)
                peers[f"spliced {size}"] = _append_cost(
                    lambda r, row=row, spliced=spliced: spliced.append(row, msgspec.json.encode([r])),
                    max(2, appends * 100 // size // 10),
                )
            turns = take_turns(peers, rounds=session.rounds)
        for size in GROWN_TO[1:]:
            goal = at_most(1.2) if size == GROWN_TO[-1] else None
            ours, theirs = turns.median(f"ours {size}") * 1_000, turns.median(f"spliced {size}") * 1_000
            growth_of_row = turns.ratio(f"spliced {size}", f"spliced {GROWN_TO[0]}")
            yield Line(
                f"append at {size:,} results to append at {GROWN_TO[0]}",
                database.name,
                f"{ours:.2f} ms",
                f"spliced row: {theirs:.2f} ms, {growth_of_row:,.1f} times its own at {GROWN_TO[0]}",
                turns.ratio(f"ours {size}", f"ours {GROWN_TO[0]}"),
                goal,
            )


def _append_cost(append: Callable[[dict[str, object]], object], appends: int) -> Peer:
    def cost() -> float:
        costs = []
        for number in range(appends):
            result = a_result(number)
            begun = time.perf_counter()
            append(result)
            costs.append(time.perf_counter() - begun)
        return percentile(costs, 50)

    return cost
