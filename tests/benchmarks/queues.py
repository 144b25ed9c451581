"""Rows about the queue: taking jobs and doing nothing with them, the way to an idle worker, and what a claim costs."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import psycopg

import ledger
from cli.worker import Work, Worker
from ledger.envelope import SALT_BYTES
from ledger.ids import new_event_ids, new_run_id, new_salts
from ledger.run.codec import to_new_events
from ledger.run.events import Completed, Enqueued, Started
from tests.benchmarks.databases import Database, connect_sqlite, vacuum
from tests.benchmarks.measure import Line, Peer, at_least, at_most, percentile, rate_line, take_turns
from tests.benchmarks.queue_peers import PEERS, WARM_UPS, Finish, QueuePeer, claim_all, enqueue_runs
from tests.benchmarks.session import Session
from tests.benchmarks.work import NOW, Row
from tests.benchmarks.writers import processes_context

WORKERS = (2, 4, 8)
WORKERS_QUICK = (4,)
JOBS = {"ours, batches of 10": 4_000, "pgqueuer, batches of 10": 4_000, "procrastinate": 600, "dbos": 400}
"""The fast ones do more and the slow ones less, so that a round takes seconds of each."""
JOBS_OTHERWISE = 2_000
FINISHED_RUNS = (1_000, 1_000_000)
CLAIMS = 100
LEASES = 1_000
HEARTBEATS = 20
IDLE_RUNS = 40
IDLE_PAUSES_S = (0.05, 0.2)
_READY_TIMEOUT_S = 120
_RUNS_AT_ONCE = 10_000


# --- many workers ---------------------------------------------------------------------------------------------------


def claim_and_complete(session: Session) -> Iterator[Line]:
    """Worker processes that empty a queue, whose jobs are enqueued before."""
    for database in session.databases:
        raw = f"raw {database.name}"
        for workers in WORKERS if session.scale == 1.0 else WORKERS_QUICK:
            names = ["ours", "ours, batches of 10", raw]
            names += ["huey"] if database.name == "SQLite" else ["procrastinate", "pgqueuer, batches of 10"]
            names += ["dbos"] if database.name == "PostgreSQL" or workers == 4 else []
            turns = take_turns(
                {name: _racing(session, database, name, workers) for name in names}, rounds=session.rounds
            )
            row = f"claim and complete, {workers} processes"
            yield rate_line(row, database.name, turns, raw, at_least(0.75))
            batches = "ours, batches of 10"
            yield rate_line(f"{row}, batches of 10", database.name, turns, raw, ours=batches)
            for name in names[3:]:
                goal = _BATCH_GOALS.get(name)
                yield rate_line(
                    f"{row}, batches of 10", database.name, turns, name, goal and at_least(goal), ours=batches
                )
                yield rate_line(row, database.name, turns, name)


_BATCH_GOALS = {"pgqueuer, batches of 10": 1.3, "huey": 3.0, "procrastinate": 1.3, "dbos": 1.3}


def _racing(session: Session, database: Database, name: str, workers: int) -> Peer:
    url, jobs = database.new_empty(), session.scaled(JOBS.get(name, JOBS_OTHERWISE))
    _apart(PEERS[name]().prepare, url)

    def race() -> float:
        return run_race(PEERS[name](), url, workers=workers, jobs=jobs)

    return race


def run_race(peer: QueuePeer, url: str, *, workers: int, jobs: int) -> float:
    """Let workers empty a queue and give how many jobs they did in a second, over all of them."""
    all_jobs = jobs + workers * WARM_UPS * peer.jobs_per_warm_up
    _apart(peer.fill, url, all_jobs)
    context = processes_context()
    barrier = context.Barrier(workers)
    pipes = [context.Pipe(duplex=False) for _ in range(workers)]
    processes = [
        context.Process(target=_work, args=(peer, url, f"worker-{number}", barrier, sender), daemon=True)
        for number, (_, sender) in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    for _, sender in pipes:
        sender.close()
    finishes: list[Finish] = [receiver.recv() for receiver, _ in pipes]
    for process in processes:
        process.join()
    done = sum(finish.jobs for finish in finishes)
    warm_ups = sum(finish.warm_ups for finish in finishes)
    assert all_jobs == done + warm_ups, f"{done + warm_ups} of {all_jobs} jobs were done"
    return done / (max(finish.ended for finish in finishes) - min(finish.begun for finish in finishes))


def _work(peer: QueuePeer, url: str, name: str, barrier: Any, report: Connection) -> None:
    report.send(peer.work(url, name, lambda: barrier.wait(_READY_TIMEOUT_S)))


def _apart(function: Any, *arguments: object) -> None:
    """Call a function in a process of its own, so that nothing of a peer stays in the one that measures."""
    process = processes_context().Process(target=function, args=arguments)
    process.start()
    process.join()
    assert 0 == process.exitcode, f"{function} failed"


# --- an idle worker -------------------------------------------------------------------------------------------------


def idle_worker(session: Session) -> Iterator[Line]:
    """From the call of `enqueue` to the handler's first line, in a `Worker` of another process that is idle."""
    for database in session.databases:
        rounds = [_waits(database, session.scaled(IDLE_RUNS)) for _ in range(session.rounds)]
        p50 = median(percentile(waits, 50) for waits in rounds) * 1_000
        p99 = median(percentile(waits, 99) for waits in rounds) * 1_000
        yield Line(
            "enqueue to start, idle: p50", database.name, f"p50 {p50:.1f} ms, p99 {p99:.1f} ms", "", p50,
            at_most(10, " ms"),
        )  # fmt: skip


def _waits(database: Database, runs: int) -> list[float]:
    url = database.new_ledger()
    context = processes_context()
    pipe, theirs = context.Pipe()
    process = context.Process(target=_execute, args=(url, theirs), daemon=True)
    process.start()
    assert "ready" == pipe.recv()
    waits = []
    with ledger.open(url) as log:
        for number in range(runs + 1):
            time.sleep(random.uniform(*IDLE_PAUSES_S))
            asked = time.monotonic()
            run = log.enqueue("test", project="web")
            run_id, started = pipe.recv()
            assert run.id == run_id
            if number:  # the first one opens connections
                waits.append(started - asked)
    pipe.send("end")
    process.join(10)
    return waits


def _execute(url: str, pipe: Connection) -> None:
    def handle(work: Work) -> None:
        pipe.send((work.run_id, time.monotonic()))

    with ledger.open(url) as log:
        worker = Worker(log, {"test": handle}, name="worker", concurrency=1)
        thread = threading.Thread(target=worker.run)
        thread.start()
        pipe.send("ready")
        pipe.recv()
        worker.stop()
        thread.join()


# --- what it costs --------------------------------------------------------------------------------------------------


def claim_cost(session: Session) -> Iterator[Line]:
    """One claim, in a ledger that has very many finished runs."""
    few, many = (session.scaled(runs) for runs in FINISHED_RUNS)
    for database in session.databases:
        peers: dict[str, Peer] = {}
        logs = []
        for name, runs in (("few", few), ("many", many)):
            url = database.new_ledger()
            raw = database.open_raw(url)
            with closing(raw):
                for start in range(0, runs, _RUNS_AT_ONCE):
                    raw.insert_many(_finished_runs(min(_RUNS_AT_ONCE, runs - start)))
            vacuum(url)
            logs.append(ledger.open(url))
            peers[name] = partial(_claim_ms, logs[-1], session.scaled(CLAIMS))
        turns = take_turns(peers, rounds=session.rounds)
        for log in logs:
            log.close()
        yield Line(
            f"claim beside {many:,} finished runs, p50", database.name, f"{turns.median('many'):.2f} ms",
            f"beside {few:,}: {turns.median('few'):.2f} ms", turns.ratio("many", "few"), at_most(1.2),
        )  # fmt: skip


def _finished_runs(count: int) -> Iterator[Row]:
    for _ in range(count):
        run_id = new_run_id()
        new = to_new_events(
            [
                Enqueued(kind="test", project="web", enqueued_at=NOW),
                Started(attempt=1, started_at=NOW, worker="w1"),
                Completed(finished_at=NOW + timedelta(seconds=30)),
            ],
            run_id=run_id,
            recorded_at=NOW,
            event_ids=new_event_ids(3),
            salts=new_salts(3, size_bytes=SALT_BYTES),
        )
        for version, event in enumerate(new, 1):
            yield (
                run_id, version, event.event_id, event.type, event.envelope, event.payload, event.salt, event.closes,
                None, None,
            )  # fmt: skip


def _claim_ms(log: ledger.Ledger, claims: int) -> float:
    enqueue_runs(log, claims)
    leases, costs = [], []
    for _ in range(claims):
        begun = time.perf_counter()
        leases += log.claim("worker", kinds=["test"])
        costs.append(time.perf_counter() - begun)
    assert claims == len(leases)
    assert not any(isinstance(outcome, Exception) for outcome in log.succeed_all(leases))
    return percentile(costs, 50) * 1_000


def heartbeat_cost(session: Session) -> Iterator[Line]:
    """One heartbeat of 1,000 leases, beside one UPDATE of as many rows of a plain table."""
    for database in session.databases:
        raw_name = f"raw {database.name}"
        raw_url = database.new_empty()
        PEERS[raw_name]().prepare(raw_url)
        PEERS[raw_name]().fill(raw_url, LEASES)
        with ledger.open(database.new_ledger()) as log, closing(_RawLeases(raw_url)) as raw:
            enqueue_runs(log, LEASES)
            leases = claim_all(log, "worker")
            assert LEASES == len(leases)

            def beat(log: ledger.Ledger = log, leases: list[ledger.Lease] = leases) -> None:
                assert all(heartbeat.is_held for heartbeat in log.heartbeat(leases))

            turns = take_turns(
                {"ours": partial(_median_ms, beat), "raw": partial(_median_ms, raw.renew)}, rounds=session.rounds
            )
        ours = turns.median("ours")
        yield Line(
            f"heartbeat of {LEASES:,} leases, p50", database.name, f"{ours:.1f} ms",
            f"raw UPDATE: {turns.median('raw'):.1f} ms", turns.ratio("ours", "raw"),
        )  # fmt: skip


def _median_ms(work: Any) -> float:
    costs = []
    for _ in range(HEARTBEATS):
        begun = time.perf_counter()
        work()
        costs.append(time.perf_counter() - begun)
    return percentile(costs, 50) * 1_000


class _RawLeases:
    """All jobs of a plain table, whose deadlines one statement moves."""

    def __init__(self, url: str) -> None:
        self._is_sqlite = url.startswith("sqlite")
        self._connection: Any = connect_sqlite(url) if self._is_sqlite else psycopg.connect(url, autocommit=True)

    def renew(self) -> None:
        deadline = round(time.time() * 1_000)
        statement = "UPDATE jobs SET deadline = {0} WHERE id <= {0} RETURNING id"
        if self._is_sqlite:
            rows = self._connection.execute(statement.format("?"), (deadline, LEASES)).fetchall()
        else:
            rows = self._connection.execute(statement.format("%s"), (deadline, LEASES), prepare=True).fetchall()
        assert LEASES == len(rows)

    def close(self) -> None:
        self._connection.close()
