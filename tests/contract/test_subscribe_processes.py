"""Live readers in other processes: woken after a long quiet time, and soon even when no hint reaches them."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from builders import NOON, a_run_id, an_event_id, new_events

import ledger
from ledger.run.events import Annotated

FOLLOWER = """
import sys, time
import ledger
from ledger.stores import sqlite
if "no inotify" in sys.argv:
    sqlite._watch = lambda path: None  # as where the system has none, or no watch to spare
with ledger.open(sys.argv[1]) as log:
    with log.subscribe(after=int(sys.argv[2])) as events:
        print("ready", flush=True)
        for event in events:
            print(event.position, time.time(), flush=True)
"""
TRIES = 15


class Follower:
    """A subscriber in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def next(self) -> tuple[int, float]:
        """Give the next event's position, and when the subscriber had it."""
        assert self._process.stdout is not None
        position, _, had_at = self._process.stdout.readline().partition(" ")
        return int(position), float(had_at)


@contextmanager
def follower(url: str, *, after: int, options: tuple[str, ...] = ()) -> Iterator[Follower]:
    process = subprocess.Popen(
        [sys.executable, "-c", FOLLOWER, url, str(after), *options],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
        yield Follower(process)
    finally:
        process.kill()
        process.communicate()


def measured(append: Callable[[int], int], following: Follower) -> float:
    """Append again and again after quiet moments, and give the median time until the other process had the event."""
    took = []
    for number in range(TRIES):
        time.sleep(0.13)
        position = append(number)
        appended_at = time.time()
        had, had_at = following.next()
        assert position == had
        took.append(had_at - appended_at)
    return statistics.median(took)


def test_subscriber_when_idle_for_long(shared_url: str) -> None:
    """After seconds without an event the first one still wakes the other process, and none is skipped."""
    with ledger.open(shared_url, migrate=True) as log:
        run = log.enqueue("test")
        (first,) = log.read_all()
        with follower(shared_url, after=first.position) as following:
            time.sleep(4)
            log.start(run.id, worker="w")
            seen = [following.next()[0]]
            time.sleep(1)
            for _ in range(5):
                log.append_results(run.id, [{"status": "passed"}])
            seen += [following.next()[0] for _ in range(5)]

        assert [event.position for event in log.read_all(after=first.position)] == seen


def test_subscriber_when_hints_arrive(shared_url: str) -> None:
    """With its hints a subscriber has the event well before it would have looked by itself."""
    with ledger.open(shared_url, migrate=True) as log:
        run = log.enqueue("test")
        (first,) = log.read_all()

        def append(_: int) -> int:
            log.append_results(run.id, [{"status": "passed"}])
            return int(log.store.read_log(after_position=0, limit=5_000).last_position)

        with follower(shared_url, after=first.position) as following:
            assert measured(append, following) < 0.02


def test_subscriber_when_postgres_hints_are_lost(postgres_url: str) -> None:
    """A writer that gives no hint is seen within 100 ms: hints only make it faster."""
    with ledger.open(postgres_url) as log:
        log.enqueue("test", run_id=a_run_id(1))
        (first,) = log.read_all()
    with psycopg.connect(postgres_url, autocommit=True) as connection, follower(
        postgres_url, after=first.position
    ) as following:  # fmt: skip

        def append(number: int) -> int:
            (event,) = new_events([Annotated(note="n")], run_id=a_run_id(1), first_id=100 + number, at=NOON)
            row = connection.execute(
                "INSERT INTO runfold.events (run_id, version, event_id, type, envelope, payload, salt)"
                " VALUES (%s, %s, %s, %s, %b, %b, %b) RETURNING position",
                (a_run_id(1), number + 2, an_event_id(100 + number), event.type, event.envelope, event.payload, b"s"),
            ).fetchone()
            assert row is not None
            return int(row[0])

        assert measured(append, following) < 0.1


def test_subscriber_when_sqlite_files_cannot_be_watched(sqlite_url: str) -> None:
    """Without the system's help a subscriber looks by itself, and has the event within 100 ms."""
    with ledger.open(sqlite_url) as log:
        run = log.enqueue("test")
        (first,) = log.read_all()

        def append(_: int) -> int:
            log.append_results(run.id, [{"status": "passed"}])
            return int(log.store.read_log(after_position=0, limit=5_000).last_position)

        with follower(sqlite_url, after=first.position, options=("no inotify",)) as following:
            assert measured(append, following) < 0.1
