"""Known defects of the source systems in reading: events that are lost or seen twice, and times in two formats."""

import json
import queue
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest
from mutable_rows import MutableRows, mutable_rows
from racing import race

import ledger
from ledger import Ledger
from ledger.run.codec import encode
from projections import Runs, rebuild, verify
from projections.systems.sentri import SentriRuns

WRITER = """
import sys
import ledger

with ledger.open(sys.argv[1]) as log:
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(50):
        log.append_log(sys.argv[2], [f"{sys.argv[3]}-{number}"])
"""
FORMAT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


@pytest.fixture
def log(shared_url: str) -> Iterator[Ledger]:
    with ledger.open(shared_url, migrate=True) as opened:
        yield opened


@pytest.fixture
def model(shared_url: str) -> Iterator[tuple[MutableRows, MutableRows]]:
    with mutable_rows(shared_url) as connections:
        yield connections


class Bus:
    """A daemon's fan-out: history from a table, live events through a bounded buffer for each subscriber."""

    def __init__(self) -> None:
        self.table: list[int] = []
        self.buffers: list[queue.Queue[int]] = []

    def publish(self, sequence: int, *, is_stored: bool = True) -> None:
        if is_stored:
            self.table.append(sequence)
        for buffer in self.buffers:
            if not buffer.full():  # a slow subscriber must not block: its event is dropped
                buffer.put_nowait(sequence)

    def register(self) -> "queue.Queue[int]":
        self.buffers.append(queue.Queue(maxsize=100))
        return self.buffers[-1]

    def history(self, since: int) -> list[int]:
        return [sequence for sequence in self.table if sequence >= since]


def drained(buffer: "queue.Queue[int]") -> list[int]:
    return [buffer.get_nowait() for _ in range(buffer.qsize())]


# --- 7: events that are lost, or seen twice -----------------------------------------------------------------------


def test_slow_subscriber_in_the_source() -> None:
    """A subscriber that is slow for 150 events loses 50 of them."""
    bus = Bus()
    slow = bus.register()

    for sequence in range(1, 151):
        bus.publish(sequence)

    assert list(range(1, 101)) == drained(slow)


def test_replay_then_live_in_the_source() -> None:
    """An event between the replay and the registration is lost, and a cursor that is inclusive gives one twice."""
    bus = Bus()
    bus.publish(1)
    bus.publish(2)

    seen = bus.history(1)
    bus.publish(3)
    live = bus.register()
    bus.publish(4)
    seen += drained(live)
    again = bus.history(seen[-1])

    assert [1, 2, 4] == seen
    assert seen[-1] == again[0]


def test_event_table_in_the_source(model: tuple[MutableRows, MutableRows]) -> None:
    """A status that is written beside the events leaves no event: a replay yields nothing."""
    daemon, _ = model
    daemon.create("R1")
    daemon.write_status("R1", "completed")

    assert ("completed", []) == (daemon.value("R1", "status"), daemon.do("SELECT * FROM source_logs"))


def test_slow_subscriber(log: Ledger) -> None:
    """A subscriber that does not read for 150 events loses none, and holds up neither the writer nor another one."""
    run = log.enqueue("test", worker="w1").id
    with log.subscribe(run_id=run) as slow, log.subscribe(run_id=run) as fast:
        assert "enqueued" == next(slow).type
        for number in range(150):
            log.append_log(run, [str(number)])

        of_fast = [event.version for event in islice(fast, 152)]
        of_slow = [event.version for event in islice(slow, 151)]

    assert list(range(1, 153)) == of_fast
    assert of_fast[1:] == of_slow


def test_replay_then_live(shared_url: str, log: Ledger) -> None:
    """A subscriber that begins in the middle of what four processes write sees every event once, in order."""
    run = log.enqueue("test", worker="w1").id
    seen: list[int] = []

    def follow() -> None:
        with log.subscribe(after=0) as events:
            seen.extend(event.position for event in islice(events, 2 + 200))

    follower = threading.Thread(target=follow)
    race_done = threading.Thread(target=lambda: race(WRITER, [[shared_url, run, str(number)] for number in range(4)]))
    race_done.start()
    follower.start()
    race_done.join()
    follower.join(timeout=60)

    assert not follower.is_alive()
    assert [event.position for event in log.read_all()] == seen
    assert 202 == len(set(seen))


def test_cursor_when_it_is_taken_up_again(log: Ledger) -> None:
    """A cursor is exclusive: who goes on after the last event that was seen sees neither it again nor a gap."""
    run = log.enqueue("test", worker="w1").id
    log.append_log(run, ["one"])
    with log.subscribe() as events:
        first = [next(events).position for _ in range(2)]
        remembered = events.position
    log.append_log(run, ["two"])
    with log.subscribe(after=remembered) as events:
        then = [next(events).position for _ in range(2)]

    assert [event.position for event in log.read_all()] == first + then


def test_events_are_the_only_way(log: Ledger) -> None:
    """Every change of a run is an event: from the events alone the same rows come again."""
    runs = SentriRuns(log)
    run = runs.create({"projectId": "P1", "type": "test_run", "shardCount": 2})
    runs.append_run_results(run, [{"testId": "T0", "status": "failed", "_shardIndex": 0}])
    runs.increment_shards_completed(run)
    runs.update(run, {"status": "failed", "error": "boom", "retryCount": 3})
    runs.delete_by_project_id("P1")
    before, row = Runs(log).get(run), runs.get_by_id_include_deleted(run)

    rebuild(log, "runs")

    assert (before, row) == (Runs(log).get(run), runs.get_by_id_include_deleted(run))
    assert verify(log)


# --- 11: times in two formats -------------------------------------------------------------------------------------


def test_times_in_the_source(model: tuple[MutableRows, MutableRows]) -> None:
    """A time that the database wrote and one that a process wrote do not compare: the later one sorts first."""
    database, process = model
    database.create("deleted")
    process.create("failed")
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    database.do("UPDATE source_runs SET finished_at = ? WHERE id = 'deleted'", now.strftime("%Y-%m-%d %H:%M:%S"))
    earlier = (now - timedelta(hours=1)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    process.do("UPDATE source_runs SET finished_at = ? WHERE id = 'failed'", earlier)

    [(latest,)] = database.do("SELECT id FROM source_runs ORDER BY finished_at DESC LIMIT 1")

    assert "failed" == latest


def times_of(value: Any) -> list[str]:
    """Give the values of every member whose name says that it is a time."""
    if isinstance(value, dict):
        own = [item for name, item in value.items() if name.endswith(("At", "_at")) and isinstance(item, str)]
        return own + [time for item in value.values() for time in times_of(item)]
    return [time for item in value for time in times_of(item)] if isinstance(value, list) else []


def test_times(log: Ledger) -> None:
    """Every time of a run's row and of its records has one format, on both databases; it sorts as the moments do."""
    runs = SentriRuns(log)
    run = runs.create({"projectId": "P1", "type": "test_run"})
    given = "2026-03-01T14:00:00+02:00"
    assert runs.mark_run_completed_first_writer_wins(run, finished_at=given)
    runs.delete_by_project_id("P1")

    row = runs.get_by_id_include_deleted(run)
    assert row is not None
    events = list(log.read(run))
    times = [*times_of(row), *(event.envelope.recorded_at for event in events)]
    assert 3 + len(events) == len(times)
    assert [] == [time for time in times if FORMAT.fullmatch(time) is None]
    assert datetime.fromisoformat(given) == datetime.fromisoformat(row["finishedAt"])
    assert sorted(times) == sorted(times, key=datetime.fromisoformat)
    payloads = [json.loads(encode(event.data)) for event in events if event.data is not None]
    assert [] == [time for time in times_of(payloads) if not time.endswith("Z")]  # never compared as text
