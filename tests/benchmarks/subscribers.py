"""Rows about live readers: from the return of an append to the event in another process, and what waiting costs."""

import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.connection import Connection
from statistics import median

import ledger
from ledger.ids import new_run_id
from tests.benchmarks.appends import new_run
from tests.benchmarks.databases import Database
from tests.benchmarks.measure import Goal, Line, at_most, percentile
from tests.benchmarks.session import Session
from tests.benchmarks.work import a_result, raw_row
from tests.benchmarks.writers import processes_context

IDLE_APPENDS = 40
IDLE_PAUSES_S = (0.02, 0.12)
BUSY_APPENDS = 400
BUSY_RATE = 200
REST_S = 3.0


def latency(session: Session) -> Iterator[Line]:
    """Appends now and then, appends at 200 a second, and appends of which no hint tells."""
    for database in session.databases:
        idle: list[list[float]] = []
        busy: list[list[float]] = []
        lost: list[list[float]] = []
        cpu: list[float] = []
        for _ in range(session.rounds):
            with _Measured(database) as measured:
                cpu.append(measured.rest(session.scale * REST_S))
                idle.append(measured.appended(_random_pauses(session.scaled(IDLE_APPENDS))))
                busy.append(measured.appended([1 / BUSY_RATE] * session.scaled(BUSY_APPENDS)))
            with _Measured(database, hints=False) as measured:
                lost.append(measured.inserted(_random_pauses(session.scaled(IDLE_APPENDS))))
        two, hundred = at_most(2, " ms"), at_most(100, " ms")
        yield _line("append to subscriber, now and then", database, idle, two)
        yield _line(f"append to subscriber, {BUSY_RATE}/s", database, busy, two)
        yield _line("append to subscriber, no hint", database, lost, hundred)
        yield Line(
            "processor time of a waiting subscriber", database.name, f"{median(cpu):.2f} %", "", median(cpu),
            at_most(1, " %"),
        )  # fmt: skip


def _line(name: str, database: Database, rounds: list[list[float]], goal: Goal) -> Line:
    p50 = median(percentile(each, 50) for each in rounds) * 1_000
    p99 = median(percentile(each, 99) for each in rounds) * 1_000
    return Line(name + ": p99", database.name, f"p50 {p50:.2f} ms, p99 {p99:.2f} ms", "", p99, goal)


def _random_pauses(count: int) -> list[float]:
    return [random.uniform(*IDLE_PAUSES_S) for _ in range(count)]


class _Measured:
    """A ledger, and a process that follows it."""

    def __init__(self, database: Database, *, hints: bool = True) -> None:
        self._database = database
        self._url = database.new_ledger()
        self._log = ledger.open(self._url)
        context = processes_context()
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_follow, args=(self._url, hints, theirs), daemon=True)
        self._process.start()
        assert "ready" == self._pipe.recv()

    def __enter__(self) -> "_Measured":
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send("end")
        self._process.join(10)
        self._log.close()

    def rest(self, seconds: float) -> float:
        """Give the processor time of the subscriber while nothing happens, in per cent."""
        time.sleep(0.5)
        before = self._ask("cpu")
        time.sleep(seconds)
        return (self._ask("cpu") - before) / seconds * 100

    def appended(self, pauses: list[float]) -> list[float]:
        """Append after each pause and give how much later than the append's return each event arrived."""
        run = new_run(self._log)
        return self._sent(pauses, lambda number: self._log.append_results(run, [a_result(number)]))

    def inserted(self, pauses: list[float]) -> list[float]:
        """The same with plain inserts, which give no hint."""
        raw, run = self._database.open_raw(self._url), new_run_id()
        with closing(raw):
            return self._sent(pauses, lambda number: raw.insert(raw_row(run, number + 1, number)))

    def _sent(self, pauses: list[float], send) -> list[float]:  # type: ignore[no-untyped-def]
        time.sleep(0.3)
        self._ask("forget")
        sent = []
        for number, pause in enumerate(pauses):
            time.sleep(pause)
            send(number)
            sent.append(time.monotonic())
        time.sleep(0.3)
        arrived = self._ask("arrivals")
        assert len(sent) == len(arrived), f"{len(arrived)} of {len(sent)} events arrived"
        return [later - earlier for earlier, later in zip(sent, arrived, strict=True)]

    def _ask(self, question: str):  # type: ignore[no-untyped-def]
        self._pipe.send(question)
        return self._pipe.recv()


def _follow(url: str, hints: bool, pipe: Connection) -> None:
    if not hints and url.startswith("sqlite"):
        sys.platform = "other"  # as where the system cannot watch files; nothing else asks in this process
    arrivals: list[float] = []
    with ledger.open(url) as log:
        subscription = log.subscribe()

        def listen() -> None:
            for _ in subscription:
                arrivals.append(time.monotonic())

        thread = threading.Thread(target=listen)
        thread.start()
        pipe.send("ready")
        while (question := pipe.recv()) != "end":
            if question == "cpu":
                pipe.send(time.process_time())
            elif question == "forget":
                arrivals.clear()
                pipe.send(None)
            else:
                pipe.send(list(arrivals))
        subscription.close()
        thread.join()
