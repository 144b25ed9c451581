"""Reading through the ledger: one run, the whole log, the past, and what is still to come."""

import queue
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from builders import NOON, a_run_id

import ledger
from ledger import Ledger, Status, Subscription
from ledger.errors import RunNotFound

MINUTE = timedelta(minutes=1)


class Clock:
    """Goes on by a minute whenever it is read."""

    def __init__(self) -> None:
        self.now = NOON - MINUTE

    def __call__(self) -> datetime:
        self.now += MINUTE
        return self.now


@pytest.fixture
def log(ledger_url: str) -> Iterator[Ledger]:
    with ledger.open(ledger_url, clock=Clock(), migrate=True) as opened:
        yield opened


def a_finished_run(log: Ledger) -> str:
    """Make a run of five events, the first at noon."""
    run_id = log.enqueue("test", run_id=a_run_id(1)).id
    log.start(run_id, worker="w")
    log.append_results(run_id, [{"status": "passed"}])
    log.append_results(run_id, [{"status": "failed"}])
    log.complete(run_id)
    return run_id


def recorded_at(log: Ledger, run_id: str) -> list[datetime]:
    return [event.recorded_at for event in log.read(run_id)]


@pytest.mark.parametrize("after", [0, 1, 4, 5, 6])
def test_read_when_it_begins_later(after: int, log: Ledger) -> None:
    """Reading begins after a version."""
    run_id = a_finished_run(log)

    assert [1, 2, 3, 4, 5][after:] == [event.version for event in log.read(run_id, after_version=after)]


@pytest.mark.parametrize("up_to", [0, 1, 3, 5, 9])
def test_read_up_to_a_version(up_to: int, log: Ledger) -> None:
    """Reading stops after a version."""
    run_id = a_finished_run(log)

    assert [1, 2, 3, 4, 5][:up_to] == [event.version for event in log.read(run_id, up_to=up_to)]


def test_read_up_to_a_moment(log: Ledger) -> None:
    """Reading stops before what was recorded after a moment; what was recorded at it is in."""
    run_id = a_finished_run(log)
    times = recorded_at(log, run_id)

    at = [len(list(log.read(run_id, up_to=moment))) for moment in times]
    before = [len(list(log.read(run_id, up_to=moment - timedelta(microseconds=1)))) for moment in times]

    assert ([1, 2, 3, 4, 5], [0, 1, 2, 3, 4]) == (at, before)


def test_state_at_a_version_and_at_a_moment(log: Ledger) -> None:
    """A run is shown as it was, by version and by time, and its past does not change."""
    run_id = a_finished_run(log)
    times = recorded_at(log, run_id)

    by_version = [log.state(run_id, at=version) for version in range(1, 6)]
    by_time = [log.state(run_id, at=moment) for moment in times]

    assert by_version == by_time
    assert [Status.QUEUED, Status.RUNNING, Status.RUNNING, Status.RUNNING, Status.COMPLETED] == [
        state.status for state in by_version
    ]
    assert [(0, 0), (0, 0), (1, 0), (1, 1), (1, 1)] == [(state.passed, state.failed) for state in by_version]
    assert by_version[-1] == log.state(run_id)


@pytest.mark.parametrize("at", [0, NOON - MINUTE * 2])
def test_state_before_there_was_a_run(at: Any, log: Ledger) -> None:
    """Before its first event a run does not exist."""
    run_id = a_finished_run(log)

    with pytest.raises(RunNotFound):
        log.state(run_id, at=at)


@pytest.mark.parametrize("page_size", [1, 2, 5, 5_000])
def test_read_all_when_paged(page_size: int, log: Ledger) -> None:
    """The whole log is read in the order of positions, whatever the size of the pages."""
    for number in range(3):
        run = log.enqueue("test", run_id=a_run_id(number))
        log.start(run.id, worker="w")

    events = list(log.read_all(page_size=page_size))

    positions = [event.position for event in events]
    assert sorted(set(positions)) == positions
    assert ["enqueued", "started"] * 3 == [event.type for event in events]


def test_read_all_when_resumed_anywhere(log: Ledger) -> None:
    """A reader that remembers one position goes on from it, without a hole and without a repeat."""
    a_finished_run(log)
    events = list(log.read_all())

    for index, event in enumerate(events):
        assert events[index + 1 :] == list(log.read_all(after=event.position))


def test_read_all_when_types_are_named(log: Ledger) -> None:
    """Only events of the named types are given."""
    a_finished_run(log)

    events = list(log.read_all(types=["completed", "enqueued"], page_size=1))

    assert ["enqueued", "completed"] == [event.type for event in events]


def test_read_run_when_long(log: Ledger) -> None:
    """A run longer than a page is read whole."""
    run = log.enqueue("test")
    notes = [ledger_note(number) for number in range(6_001)]
    log.append(run.id, notes)

    assert list(range(1, 6_003)) == [event.version for event in log.read(run.id)]
    assert 6_002 == log.state(run.id).version


def ledger_note(number: int) -> Any:
    from ledger.run.events import Annotated

    return Annotated(note=str(number))


# --- subscriptions -------------------------------------------------------------------------------------------------


def follow(subscription: Subscription) -> tuple["queue.Queue[Any]", threading.Thread]:
    """Put what a subscription gives into a queue, from a thread of its own; None when it ended."""
    seen: queue.Queue[Any] = queue.Queue()

    def read() -> None:
        try:
            for event in subscription:
                seen.put(event)
        finally:
            seen.put(None)

    reader = threading.Thread(target=read)
    reader.start()
    return seen, reader


def test_subscription_when_catching_up_and_live(log: Ledger) -> None:
    """What is there comes first, then what is appended, in one order and without a seam."""
    a_finished_run(log)

    with log.subscribe() as subscription:
        seen, reader = follow(subscription)
        caught_up = [seen.get(timeout=20) for _ in range(5)]
        log.enqueue("test", run_id=a_run_id(2))
        log.start(a_run_id(2), worker="w")
        live = [seen.get(timeout=20) for _ in range(2)]
    reader.join(20)

    assert list(log.read_all()) == caught_up + live
    assert (None, False) == (seen.get(timeout=20), reader.is_alive())
    assert subscription.position == live[-1].position


def test_subscription_when_begun_in_the_middle(log: Ledger) -> None:
    """A subscription goes on after the position that its reader remembers, exclusively."""
    a_finished_run(log)
    events = list(log.read_all())

    with log.subscribe(after=events[2].position) as subscription:
        assert events[3:] == [next(subscription), next(subscription)]


def test_subscription_when_filtered(log: Ledger) -> None:
    """Types and a run may be named; what is passed over moves the position all the same."""
    for number in (1, 2):
        log.enqueue("test", run_id=a_run_id(number))
        log.start(a_run_id(number), worker="w")
        log.complete(a_run_id(number))

    with log.subscribe(types=["completed"]) as by_type, log.subscribe(run_id=a_run_id(2)) as by_run:
        ends = [next(by_type), next(by_type)]
        own = [next(by_run) for _ in range(3)]

    assert [(a_run_id(1), "completed"), (a_run_id(2), "completed")] == [(event.run_id, event.type) for event in ends]
    assert ["enqueued", "started", "completed"] == [event.type for event in own]


def test_subscription_when_nothing_it_wants_comes(log: Ledger) -> None:
    """The position moves past what a filter leaves out, so that a restart does not read it again."""
    a_finished_run(log)
    last = list(log.read_all())[-1].position

    with log.subscribe(types=["purged"]) as subscription:
        seen, _ = follow(subscription)
        deadline = time.monotonic() + 20
        while subscription.position < last and time.monotonic() < deadline:
            time.sleep(0.01)

    assert (last, None) == (subscription.position, seen.get(timeout=20))


def test_subscription_when_closed_from_another_thread(log: Ledger) -> None:
    """Closing ends a waiting reader at once, and closing again does nothing."""
    subscription = log.subscribe()
    seen, reader = follow(subscription)
    time.sleep(0.2)

    subscription.close()
    subscription.close()
    reader.join(20)

    assert (None, False) == (seen.get(timeout=20), reader.is_alive())
    assert [] == list(subscription)


def test_subscription_when_its_ledger_is_closed(ledger_url: str) -> None:
    """Closing the ledger ends its subscriptions."""
    log = ledger.open(ledger_url, migrate=True)
    log.enqueue("test")
    subscription = log.subscribe()
    seen, reader = follow(subscription)
    assert "enqueued" == seen.get(timeout=20).type

    log.close()
    reader.join(20)

    assert (None, False) == (seen.get(timeout=20), reader.is_alive())
    subscription.close()


def test_subscriptions_when_there_are_many(log: Ledger) -> None:
    """Every reader sees everything, each at its own pace."""
    with log.subscribe() as one, log.subscribe() as two, log.subscribe() as three:
        readers = [follow(subscription) for subscription in (one, two, three)]
        for number in range(10):
            log.enqueue("test", run_id=a_run_id(number))
        orders = [[seen.get(timeout=20).run_id for _ in range(10)] for seen, _ in readers]

    assert [[a_run_id(number) for number in range(10)]] * 3 == orders


def test_subscription_when_another_ledger_appends(shared_url: str) -> None:
    """What another connection appends is delivered live."""
    with ledger.open(shared_url, migrate=True) as one, ledger.open(shared_url) as two, one.subscribe() as subscription:
        seen, _ = follow(subscription)
        time.sleep(0.1)
        two.enqueue("test", run_id=a_run_id(3))

        assert a_run_id(3) == seen.get(timeout=20).run_id


def test_subscription_when_writers_never_stop(log: Ledger) -> None:
    """A reader that begins in the middle of a storm misses nothing and sees nothing twice."""
    run = log.enqueue("test")
    writers = [
        threading.Thread(target=lambda: [log.append_results(run.id, [{"status": "passed"}]) for _ in range(25)])
        for _ in range(4)
    ]
    for writer in writers:
        writer.start()
    with log.subscribe() as subscription:
        seen, _ = follow(subscription)
        versions = [seen.get(timeout=60).version for _ in range(101)]
    for writer in writers:
        writer.join(60)

    assert list(range(1, 102)) == versions
