"""What every store promises of reading, of turns, of finding, of waking readers and of closing."""

import threading
import time
from collections.abc import Iterator

import pytest
from builders import COMPLETED, OTHER_RUN, RUN, UNKNOWN_RUN, a_run_id, an_event_id, enqueued, new_events, started

from ledger import limits
from ledger.errors import EventIdReused, LedgerError, RunClosed, StoreUnavailable, VersionConflict
from ledger.events import Page, RunId
from ledger.opening import open_store
from ledger.run.codec import decode_page
from ledger.run.events import Annotated, LogAppended, RunEvent
from ledger.store import ANY, EXISTS, NO_RUN, AppendRequest, Condition, Store, Turn, exactly

NOTE = Annotated(note="n")


@pytest.fixture
def store(ledger_url: str) -> Iterator[Store]:
    opened = open_store(ledger_url, migrate=True)
    yield opened
    opened.close()


def request(*events: RunEvent, when: Condition = ANY, run_id: RunId = RUN, first_id: int = 1) -> AppendRequest:
    return AppendRequest(run_id, when, new_events(events, run_id=run_id, first_id=first_id))


def versions(page: Page) -> list[int]:
    return [event.version for event in decode_page(page.events)]


def positions(page: Page) -> list[int]:
    return [event.position for event in decode_page(page.events)]


# --- pages of a run -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "limit", "expected"),
    [
        (0, 10, [1, 2, 3, 4, 5]),
        (0, 5, [1, 2, 3, 4, 5]),
        (0, 2, [1, 2]),
        (2, 2, [3, 4]),
        (4, 2, [5]),
        (5, 2, []),
        (99, 2, []),
    ],
)
def test_read_run_at_every_place(after: int, limit: int, expected: list[int], store: Store) -> None:
    """A page begins after a version and has no more events than asked for."""
    store.append(request(*[NOTE] * 5))
    store.append(request(*[NOTE] * 3, run_id=OTHER_RUN, first_id=100))

    page = store.read_run(RUN, after_version=after, limit=limit)

    assert (expected, len(expected)) == (versions(page), page.count)
    assert page.more or (expected or [5])[-1] == 5


def test_read_run_when_paged(store: Store) -> None:
    """Pages follow one another without a hole, and `more` ends them."""
    store.append(request(*[NOTE] * 7))

    seen: list[int] = []
    more = True
    while more:
        page = store.read_run(RUN, after_version=len(seen), limit=3)
        seen += versions(page)
        more = page.more

    assert list(range(1, 8)) == seen


def test_read_run_when_unknown(store: Store) -> None:
    """An unknown run has no events."""
    page = store.read_run(UNKNOWN_RUN, after_version=0, limit=10)

    assert (0, 0, False) == (len(page.events), page.count, page.more)


# --- pages of the log ---------------------------------------------------------------------------------------------


def test_read_log_when_paged(store: Store) -> None:
    """A reader that remembers the last position sees every event once, in the order of positions."""
    for number in range(6):
        store.append(request(NOTE, NOTE, run_id=[RUN, OTHER_RUN][number % 2], first_id=10 * number + 1))

    seen: list[tuple[int, str]] = []
    after = 0
    while True:
        page = store.read_log(after_position=after, limit=5)
        seen += [(event.position, event.event_id) for event in decode_page(page.events)]
        assert page.last_position == (seen[-1][0] if page.count else after)
        assert page.settled_position >= page.last_position
        after = page.last_position
        if not page.count:
            break

    assert sorted(seen) == seen
    assert [an_event_id(10 * number + index) for number in range(6) for index in (1, 2)] == [i for _, i in seen]


def test_read_log_when_nothing_is_new(store: Store) -> None:
    """A reader at the end stays where it is."""
    appended = store.append(request(NOTE, NOTE))

    page = store.read_log(after_position=appended.positions[-1], limit=10)

    assert (0, 0, appended.positions[-1], False) == (len(page.events), page.count, page.last_position, page.more)


def test_read_log_when_empty(store: Store) -> None:
    """An empty log has nothing settled."""
    page = store.read_log(after_position=0, limit=10)

    assert (0, 0, 0, 0, False) == (
        len(page.events), page.count, page.last_position, page.settled_position, page.more
    )  # fmt: skip


@pytest.mark.parametrize("unsettled", [False, True])
def test_read_log_when_all_is_settled(unsettled: bool, store: Store) -> None:
    """With no writer at work, settled and unsettled readers see the same."""
    appended = store.append(request(NOTE, NOTE, NOTE))

    page = store.read_log(after_position=0, limit=10, unsettled=unsettled)

    assert list(appended.positions) == positions(page)
    assert appended.positions[-1] <= page.settled_position


def test_pages_when_events_are_large(ledger_url: str) -> None:
    """A page is bounded in bytes as well as in events, and still goes on."""
    if ledger_url == "memory:":
        pytest.skip("what it hands out is in memory already")
    store = open_store(ledger_url, migrate=True)
    line = LogAppended(lines=["x" * (limits.PAYLOAD_BYTES_MAX // 2)])
    store.append(request(*[line] * 20))

    by_run = store.read_run(RUN, after_version=0, limit=20)
    by_log = store.read_log(after_position=0, limit=20)

    for page in (by_run, by_log):
        assert 1 <= page.count < 20
        assert len(page.events) <= limits.PAGE_BYTES_MAX + 1_000
        assert page.more
    rest = store.read_run(RUN, after_version=by_run.count, limit=20)
    assert versions(rest)[0] == by_run.count + 1
    store.close()


# --- finding ------------------------------------------------------------------------------------------------------


def test_find_when_some_are_there(store: Store) -> None:
    """Known ids are found with run, version and position; others are left out."""
    first = store.append(request(NOTE, NOTE))
    second = store.append(request(NOTE, run_id=OTHER_RUN, first_id=10))

    found = store.find([an_event_id(2), an_event_id(10), an_event_id(77)])

    assert {
        an_event_id(2): (RUN, 2, first.positions[1]),
        an_event_id(10): (OTHER_RUN, 1, second.positions[0]),
    } == found


def test_find_when_nothing_is_asked(store: Store) -> None:
    """No ids, nothing found."""
    assert {} == store.find([])


# --- turns --------------------------------------------------------------------------------------------------------


def test_turn_when_it_ends(store: Store) -> None:
    """What is appended in a turn is there when the turn ends."""
    store.append(request(enqueued(), started()))

    with store.in_turn(RUN) as turn:
        before = versions(turn.read_run(RUN, after_version=0, limit=10))
        appended = turn.append(request(NOTE, when=exactly(2), first_id=10))
        within = versions(turn.read_run(RUN, after_version=0, limit=10))

    assert ([1, 2], [1, 2, 3], 3) == (before, within, appended.version)
    assert [1, 2, 3] == versions(store.read_run(RUN, after_version=0, limit=10))
    assert an_event_id(10) in store.find([an_event_id(10)])


def test_turn_when_it_is_abandoned(store: Store) -> None:
    """An error rolls the whole turn back, and the stream goes on from where it was."""
    store.append(request(enqueued()))

    def abandon() -> None:
        with store.in_turn(RUN) as turn:
            turn.append(request(NOTE, first_id=10))
            turn.append(request(NOTE, COMPLETED, first_id=20))
            raise InterruptedError

    with pytest.raises(InterruptedError):
        abandon()

    assert [1] == versions(store.read_run(RUN, after_version=0, limit=10))
    assert {} == store.find([an_event_id(10), an_event_id(20)])
    assert 2 == store.append(request(COMPLETED, when=exactly(1), first_id=30)).version
    assert positions(store.read_run(RUN, after_version=0, limit=10)) == positions(
        store.read_log(after_position=0, limit=10)
    )


@pytest.mark.parametrize(
    ("when", "expected"), [(exactly(1), VersionConflict), (NO_RUN, VersionConflict), (EXISTS, RunClosed)]
)
def test_turn_when_its_append_is_refused(when: Condition, expected: type[LedgerError], store: Store) -> None:
    """A refusal in a turn is a refusal, and takes what the turn appended before with it."""
    store.append(request(enqueued(), COMPLETED))

    def take_turn() -> None:
        with store.in_turn(RUN) as turn:
            turn.append(request(NOTE, first_id=10))
            turn.append(request(COMPLETED, when=when, first_id=20))

    with pytest.raises(expected):
        take_turn()

    assert [1, 2] == versions(store.read_run(RUN, after_version=0, limit=10))


def test_turn_when_its_append_is_there_already(store: Store) -> None:
    """In a turn, too, known events get their first places back."""
    first = store.append(request(enqueued(), NOTE))

    with store.in_turn(RUN) as turn:
        again = turn.append(request(enqueued(), NOTE, when=exactly(2)))

    assert (list(first.positions), True) == (list(again.positions), again.is_duplicate)
    assert [1, 2] == versions(store.read_run(RUN, after_version=0, limit=10))


def test_turn_when_an_event_id_is_reused(store: Store) -> None:
    """In a turn, too, an id names one event for ever."""
    store.append(request(enqueued(), NOTE))

    with pytest.raises(EventIdReused), store.in_turn(RUN) as turn:
        turn.append(request(Annotated(note="other"), when=exactly(2)))

    assert [1, 2] == versions(store.read_run(RUN, after_version=0, limit=10))


def test_turn_when_others_write(store: Store) -> None:
    """Nobody appends to a stream while somebody has its turn."""
    store.append(request(enqueued()))
    order: list[str] = []
    has_turn = threading.Event()

    def write() -> None:
        has_turn.wait(10)
        store.append(request(NOTE, first_id=50))
        order.append("other")

    writer = threading.Thread(target=write)
    writer.start()
    with store.in_turn(RUN) as turn:
        has_turn.set()
        time.sleep(0.3)
        appended = turn.append(request(NOTE, when=exactly(1), first_id=10))
        order.append("turn")
    writer.join(10)

    assert (["turn", "other"], 2) == (order, appended.version)
    assert [1, 2, 3] == versions(store.read_run(RUN, after_version=0, limit=10))


def test_turns_when_many_want_one(store: Store) -> None:
    """Turns follow one another: what each read is still so when it appends."""
    store.append(request(enqueued()))
    errors: list[BaseException] = []

    def take_turns(number: int) -> None:
        try:
            for index in range(5):
                with store.in_turn(RUN) as turn:
                    version = versions(turn.read_run(RUN, after_version=0, limit=100))[-1]
                    turn.append(request(NOTE, when=exactly(version), first_id=1_000 * number + index))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=take_turns, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert [] == errors
    assert list(range(1, 22)) == versions(store.read_run(RUN, after_version=0, limit=100))


# --- waking readers -----------------------------------------------------------------------------------------------


def waited(store: Store, act_after_s: float | None, timeout_s: float) -> float:
    """Wait for an append that comes after a while, and say how long that took."""
    listener = store.listen()
    listener.wait(0.01)  # what was there before is no news

    def append() -> None:
        time.sleep(act_after_s or 0)
        store.append(request(NOTE, first_id=500))

    writer = threading.Thread(target=append) if act_after_s is not None else None
    began = time.monotonic()
    if writer is not None:
        writer.start()
    while time.monotonic() - began < timeout_s:  # a false alarm is fine
        listener.wait(timeout_s - (time.monotonic() - began))
        if store.find([an_event_id(500)]):
            break
    took = time.monotonic() - began
    if writer is not None:
        writer.join(10)
    listener.close()
    return took


def test_listener_when_something_is_appended(store: Store) -> None:
    """An append wakes a reader long before its wait is over."""
    store.append(request(enqueued()))

    assert waited(store, 0.2, 20) < 10


def test_listener_when_nothing_is_appended(store: Store) -> None:
    """A wait ends when its time is over."""
    assert waited(store, None, 0.2) < 5


def test_listener_when_closed_by_another_thread(store: Store) -> None:
    """Closing ends a wait at once, and every later one."""
    listener = store.listen()
    closer = threading.Timer(0.2, listener.close)
    closer.start()

    began = time.monotonic()
    deadline = began + 20
    while time.monotonic() - began < 0.2:
        listener.wait(deadline - time.monotonic())
    closer.join()
    for _ in range(100):
        listener.wait(20)

    assert time.monotonic() - began < 10
    listener.close()


# --- closing ------------------------------------------------------------------------------------------------------


def test_store_when_closed(ledger_url: str) -> None:
    """A closed store says so, whatever is asked of it, and can be closed again."""
    store = open_store(ledger_url, migrate=True)
    store.append(request(enqueued()))
    store.close()
    store.close()

    def take_turn() -> Turn:
        with store.in_turn(RUN) as turn:
            return turn

    for act in (
        lambda: store.append(request(NOTE, first_id=10)),
        lambda: store.read_run(RUN, after_version=0, limit=1),
        lambda: store.read_log(after_position=0, limit=1),
        lambda: store.find([an_event_id(1)]),
        take_turn,
    ):
        with pytest.raises(StoreUnavailable, match=r"was closed. Open it again"):
            act()


def test_store_when_opened_again(shared_url: str) -> None:
    """What was appended is there for the next one that opens it."""
    first = open_store(shared_url, migrate=True)
    appended = first.append(request(enqueued(), NOTE))
    first.close()

    second = open_store(shared_url)
    page = second.read_log(after_position=0, limit=10)
    later = second.append(request(NOTE, when=exactly(2), first_id=10))
    second.close()

    assert list(appended.positions) == positions(page)
    assert (3, True) == (later.version, later.positions[0] > appended.positions[-1])


def test_store_url_when_shown(store: Store) -> None:
    """A store knows what it was opened with."""
    assert store.url.partition(":")[0] in ("memory", "sqlite", "postgresql")


def test_read_log_when_a_reader_goes_by_what_is_settled(store: Store) -> None:
    """Who goes on after the settled position, once a page is not full, misses nothing while others append."""
    count, threads = 150, 4

    def write(number: int) -> None:
        for version in range(count):
            store.append(request(NOTE, run_id=a_run_id(number), first_id=(number + 1) * 1_000 + version))

    writers = [threading.Thread(target=write, args=(number,)) for number in range(threads)]
    for writer in writers:
        writer.start()
    seen: list[int] = []
    cursor, is_last = 0, False
    while not is_last:
        is_last = not any(writer.is_alive() for writer in writers)
        page = store.read_log(after_position=cursor, limit=100)
        seen += positions(page)
        is_last = is_last and not page.more
        cursor = page.last_position if page.more else max(page.last_position, page.settled_position)

    assert seen == positions(store.read_log(after_position=0, limit=5_000))
    assert count * threads == len(seen)
