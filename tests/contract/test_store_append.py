"""What every store promises of an append: accepted, refused, or there already."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from builders import (
    COMPLETED,
    FAILED,
    NOON,
    OTHER_RUN,
    RUN,
    a_run_id,
    an_event_id,
    enqueued,
    new_events,
    started,
)

from ledger.errors import EventIdReused, LedgerError, RunClosed, RunNotFound, ShardSuperseded, VersionConflict
from ledger.events import NewEvent, RunId
from ledger.opening import open_store
from ledger.run.codec import decode_page
from ledger.run.events import Annotated, LogAppended, RunEvent, ShardRetried
from ledger.store import (
    ANY,
    EXISTS,
    NO_RUN,
    Appended,
    AppendRequest,
    Condition,
    KeyClaim,
    KeyTaken,
    Store,
    exactly,
    unless_closed,
)

FIRST: list[RunEvent] = [enqueued(), started()]
NOTE = Annotated(note="n")


@pytest.fixture
def store(ledger_url: str) -> Iterator[Store]:
    opened = open_store(ledger_url, migrate=True)
    yield opened
    opened.close()


def request(
    *events: RunEvent,
    when: Condition = ANY,
    run_id: RunId = RUN,
    first_id: int = 1,
    claims: tuple[KeyClaim, ...] = (),
) -> AppendRequest:
    return AppendRequest(run_id, when, new_events(events, run_id=run_id, first_id=first_id), claims)


def stored(store: Store, run_id: RunId = RUN) -> list[tuple[int, int, str, str]]:
    """Position, version, type and event id of a run's events, as it is read now."""
    page = store.read_run(run_id, after_version=0, limit=1_000)
    return [(event.position, event.version, event.type, event.event_id) for event in decode_page(page.events)]


def versions(store: Store, run_id: RunId = RUN) -> list[int]:
    return [version for _, version, _, _ in stored(store, run_id)]


# --- what an append gives -----------------------------------------------------------------------------------------


def test_append_when_accepted(store: Store) -> None:
    """Versions are dense from 1, positions grow, and the answer names them."""
    first = store.append(request(*FIRST))
    second = store.append(request(NOTE, NOTE, NOTE, first_id=10))

    assert [1, 2, 3, 4, 5] == versions(store)
    assert [position for position, *_ in stored(store)] == [*first.positions, *second.positions]
    assert sorted({*first.positions, *second.positions}) == [*first.positions, *second.positions]
    assert (RUN, 2, False) == (first.run_id, first.version, first.is_duplicate)
    assert (RUN, 5, False) == (second.run_id, second.version, second.is_duplicate)


@pytest.mark.parametrize("count", [1, 2, 199, 200, 201])
def test_append_when_it_has_many_events(count: int, store: Store) -> None:
    """An append of any size, on whatever path it goes in, keeps its order."""
    store.append(request(*FIRST))

    appended = store.append(request(*[NOTE] * count, first_id=10))

    rows = stored(store)[2:]
    assert [an_event_id(10 + index) for index in range(count)] == [event_id for *_, event_id in rows]
    assert list(range(3, 3 + count)) == [version for _, version, _, _ in rows]
    assert (2 + count, [position for position, *_ in rows]) == (appended.version, list(appended.positions))


def test_append_when_runs_alternate(store: Store) -> None:
    """Each run has its own versions; positions are of the whole log."""
    positions = [
        store.append(request(NOTE, run_id=run_id, first_id=number)).positions[0]
        for number, run_id in enumerate([RUN, OTHER_RUN, RUN, OTHER_RUN, OTHER_RUN], 1)
    ]

    assert ([1, 2], [1, 2, 3]) == (versions(store), versions(store, OTHER_RUN))
    assert sorted(set(positions)) == positions


def test_append_when_read_back(store: Store) -> None:
    """The stored bytes are the writer's, to the last one."""
    made = new_events([enqueued(input={"ä": "😀", "a": 1.50, "n": None})])

    store.append(AppendRequest(RUN, NO_RUN, made))

    page = store.read_run(RUN, after_version=0, limit=10)
    [(position, version)] = [(event.position, event.version) for event in decode_page(page.events)]
    assert b"[[%d,%d,%b,%b]]" % (position, version, made[0].envelope, made[0].payload) == b"".join(page.events)


# --- conditions ---------------------------------------------------------------------------------------------------

STREAMS: dict[str, list[RunEvent]] = {"empty": [], "open": FIRST, "closed": [*FIRST, COMPLETED]}
CONDITIONS: dict[str, Condition] = {
    "any": ANY,
    "exists": EXISTS,
    "no run": NO_RUN,
    "exactly 0": exactly(0),
    "exactly 2": exactly(2),
    "exactly 3": exactly(3),
    "unless closed": unless_closed(),
}
ACCEPTED: dict[tuple[str, str], type[LedgerError]] = {
    ("empty", "exists"): RunNotFound,
    ("empty", "exactly 2"): VersionConflict,
    ("empty", "exactly 3"): VersionConflict,
    ("empty", "unless closed"): RunNotFound,
    ("open", "no run"): VersionConflict,
    ("open", "exactly 0"): VersionConflict,
    ("open", "exactly 3"): VersionConflict,
    ("closed", "no run"): VersionConflict,
    ("closed", "exactly 0"): VersionConflict,
    ("closed", "exactly 2"): VersionConflict,
    ("closed", "unless closed"): RunClosed,
}
"""Which condition refuses an ordinary event on which stream; all others accept it."""


def answer(act: Callable[[], Appended]) -> type[LedgerError] | None:
    try:
        act()
    except LedgerError as refusal:
        return type(refusal)
    return None


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("stream", STREAMS)
def test_condition_on_every_stream(stream: str, condition: str, store: Store) -> None:
    """An append is accepted or refused as its condition says, and a refused one wrote nothing."""
    if STREAMS[stream]:
        store.append(request(*STREAMS[stream]))
    before = stored(store)

    refusal = answer(lambda: store.append(request(NOTE, NOTE, when=CONDITIONS[condition], first_id=10)))

    assert ACCEPTED.get((stream, condition)) == refusal
    assert (len(before) if refusal else len(before) + 2) == len(stored(store))


@pytest.mark.parametrize("condition", CONDITIONS)
def test_closing_event_when_there_is_one(condition: str, store: Store) -> None:
    """A stream takes one closing event, whatever the condition."""
    store.append(request(*FIRST, COMPLETED))

    refusal = answer(lambda: store.append(request(FAILED, when=CONDITIONS[condition], first_id=10)))

    expected = ACCEPTED.get(("closed", condition), RunClosed)
    assert (expected, 3) == (refusal, len(stored(store)))


def test_event_when_it_follows_the_closing_one(store: Store) -> None:
    """An append may go on after its closing event, and later ones after that."""
    store.append(request(*FIRST, COMPLETED, LogAppended(lines=["bye"])))
    store.append(request(LogAppended(lines=["late"]), when=EXISTS, first_id=10))

    with pytest.raises(RunClosed) as refusal:
        store.append(request(NOTE, when=unless_closed(), first_id=20))

    assert (5, 3) == (len(stored(store)), refusal.value.closed_version)


def test_version_conflict_when_raised(store: Store) -> None:
    """A conflict says where the stream is and what was expected."""
    store.append(request(*FIRST))

    with pytest.raises(VersionConflict) as refusal:
        store.append(request(NOTE, when=exactly(1), first_id=10))

    assert (RUN, 1, 2) == (refusal.value.run_id, refusal.value.expected_version, refusal.value.version)


# --- fences -------------------------------------------------------------------------------------------------------


def retried(shard: int, attempt: int) -> ShardRetried:
    return ShardRetried(shard=shard, shard_attempt=attempt)


@pytest.mark.parametrize(
    ("raised", "fence", "epoch", "refused"),
    [
        ([], "shard 0", 1, False),
        ([retried(0, 2)], "shard 0", 1, True),
        ([retried(0, 2)], "shard 0", 2, False),
        ([retried(0, 2)], "shard 0", 3, False),
        ([retried(0, 2)], "shard 1", 1, False),
        ([retried(1, 5), retried(0, 2)], "shard 1", 4, True),
        ([retried(0, 3), retried(0, 2)], "shard 0", 2, True),
        ([retried(1, 2)], "shard 10", 1, False),
    ],
)
def test_fence_when_raised(raised: list[RunEvent], fence: str, epoch: int, refused: bool, store: Store) -> None:
    """A newer epoch of a fence refuses the older ones behind that fence, and nobody else."""
    store.append(request(*FIRST, *raised))

    refusal = answer(lambda: store.append(request(NOTE, when=unless_closed(fence, epoch), first_id=10)))

    assert (ShardSuperseded if refused else None) == refusal


def test_shard_superseded_when_raised(store: Store) -> None:
    """The refusal says which attempt is the newest."""
    store.append(request(*FIRST, retried(3, 4)))

    with pytest.raises(ShardSuperseded) as refusal:
        store.append(request(NOTE, when=unless_closed("shard 3", 2), first_id=10))

    assert ("shard 3", 2, 4) == (refusal.value.fence, refusal.value.attempt, refusal.value.newest_attempt)


def test_fence_when_the_run_is_closed(store: Store) -> None:
    """Being closed goes before being superseded."""
    store.append(request(*FIRST, retried(0, 2), COMPLETED))

    assert RunClosed is answer(lambda: store.append(request(NOTE, when=unless_closed("shard 0", 1), first_id=10)))


# --- the same append again ----------------------------------------------------------------------------------------

A, B, C, D = new_events([NOTE, Annotated(note="b"), Annotated(note="c"), Annotated(note="d")], first_id=50)
OTHER_PAYLOAD = new_events([Annotated(note="other")], first_id=50)[0]
OTHER_TYPE = A._replace(type="log_appended")

AGAIN: dict[str, tuple[tuple[NewEvent, ...], list[int] | None]] = {
    "the same": ((A, B, C), [3, 4, 5]),
    "its beginning": ((A, B), [3, 4]),
    "its middle": ((B,), [4]),
    "its end": ((B, C), [4, 5]),
    "one more": ((A, B, C, D), None),
    "one more before": ((D, A, B, C), None),
    "in another order": ((B, A, C), None),
    "backwards": ((C, B, A), None),
    "with a hole": ((A, C), None),
    "partly new": ((C, D), None),
    "twice the same": ((A, A), None),
    "with another payload": ((OTHER_PAYLOAD, B, C), None),
    "with another type": ((OTHER_TYPE, B, C), None),
}
"""What is sent after A, B, C stand at the versions 3, 4, 5: the versions it gets back, or None: refused."""


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("sent", AGAIN)
def test_append_when_its_ids_are_known(sent: str, condition: str, store: Store) -> None:
    """Known events get their first places back whatever the condition, if they are the same; else nothing happens."""
    store.append(request(*FIRST))
    first = store.append(AppendRequest(RUN, exactly(2), (A, B, C)))
    events, places = AGAIN[sent]
    before = stored(store)

    if places is None:
        with pytest.raises(EventIdReused):
            store.append(AppendRequest(RUN, CONDITIONS[condition], events))
    else:
        again = store.append(AppendRequest(RUN, CONDITIONS[condition], events))
        assert (RUN, places[-1], True) == (again.run_id, again.version, again.is_duplicate)
        assert [first.positions[place - 3] for place in places] == list(again.positions)

    assert before == stored(store)


REUSED = {
    "one more": D,
    "one more before": D,
    "in another order": A,
    "with a hole": C,
    "partly new": D,
    "with another payload": OTHER_PAYLOAD,
}
"""The first event that is not where it was."""


@pytest.mark.parametrize("sent", REUSED)
def test_event_id_reused_when_raised(sent: str, store: Store) -> None:
    """The error names the first event that is not as it was."""
    store.append(request(*FIRST))
    store.append(AppendRequest(RUN, exactly(2), (A, B, C)))

    with pytest.raises(EventIdReused) as refusal:
        store.append(AppendRequest(RUN, ANY, AGAIN[sent][0]))

    assert REUSED[sent].event_id == refusal.value.event_id


@pytest.mark.parametrize("condition", ["any", "no run", "exactly 0"])
def test_append_when_its_ids_are_another_runs(condition: str, store: Store) -> None:
    """An event id names one event for ever, over all runs."""
    store.append(request(*FIRST))

    with pytest.raises(EventIdReused) as refusal:
        store.append(request(*FIRST, run_id=OTHER_RUN, when=CONDITIONS[condition]))

    assert (an_event_id(1), []) == (refusal.value.event_id, stored(store, OTHER_RUN))


def test_append_when_two_of_its_ids_are_one(store: Store) -> None:
    """Two events of one append cannot have one id."""
    with pytest.raises(EventIdReused):
        store.append(AppendRequest(RUN, ANY, (A, A._replace(payload=B.payload))))

    assert [] == stored(store)


def test_closing_append_when_sent_again(store: Store) -> None:
    """A terminal event that is sent again won already."""
    store.append(request(*FIRST))
    first = store.append(request(COMPLETED, when=exactly(2), first_id=10))

    again = store.append(request(COMPLETED, when=exactly(2), first_id=10))

    assert (3, list(first.positions), True) == (again.version, list(again.positions), again.is_duplicate)


def test_append_when_sent_again_after_others(store: Store) -> None:
    """The first places come back although the stream went on and was closed."""
    store.append(request(*FIRST))
    first = store.append(request(NOTE, when=unless_closed(), first_id=10))
    store.append(request(COMPLETED, when=exactly(3), first_id=20))

    again = store.append(request(NOTE, when=unless_closed(), first_id=10))

    assert (3, list(first.positions), True) == (again.version, list(again.positions), again.is_duplicate)


def test_append_when_only_its_envelope_differs(store: Store) -> None:
    """A retry may have another clock and another salt; run, type and payload are what must be the same."""
    store.append(request(*FIRST))
    later = new_events(FIRST, at=NOON.replace(hour=13))
    resalted = tuple(event._replace(salt=b"\x01" * 32) for event in later)

    again = store.append(AppendRequest(RUN, NO_RUN, resalted))

    assert (2, True) == (again.version, again.is_duplicate)


# --- keys ---------------------------------------------------------------------------------------------------------


def exclusive(key: str = "main", project: str = "web") -> KeyClaim:
    return KeyClaim("exclusive", project, key, until_closed=True)


def idempotency(key: str = "k1", project: str = "web", fingerprint: str = "f1") -> KeyClaim:
    return KeyClaim("idempotency", project, key, fingerprint)


def claim(store: Store, *claims: KeyClaim, number: int = 2) -> Appended:
    return store.append(request(enqueued(), when=NO_RUN, run_id=a_run_id(number), first_id=number * 100, claims=claims))


def test_key_when_free(store: Store) -> None:
    """A key is claimed in the append that needs it."""
    claim(store, exclusive(), idempotency(), number=1)

    with pytest.raises(KeyTaken) as refusal:
        claim(store, exclusive())

    assert (a_run_id(1), exclusive()) == (refusal.value.run_id, refusal.value.claim)
    assert [] == stored(store, a_run_id(2))


def test_key_when_taken_with_a_fingerprint(store: Store) -> None:
    """Who is refused learns what the key stands for."""
    claim(store, idempotency(fingerprint="f1"), number=1)

    with pytest.raises(KeyTaken) as refusal:
        claim(store, idempotency(fingerprint="f2"))

    assert (a_run_id(1), "f1", "f2") == (
        refusal.value.run_id,
        refusal.value.fingerprint,
        refusal.value.claim.fingerprint,
    )


@pytest.mark.parametrize(
    "other", [exclusive("main", "api"), exclusive("dev", "web"), exclusive("Main"), idempotency("main")]
)
def test_key_when_another_one_is_taken(other: KeyClaim, store: Store) -> None:
    """Keys of another project, another space or another spelling do not meet."""
    claim(store, exclusive(), number=1)

    appended = claim(store, other)

    assert (1, False) == (appended.version, appended.is_duplicate)


@pytest.mark.parametrize("order", [(exclusive(), idempotency("k2")), (idempotency("k2"), exclusive())])
def test_keys_when_one_of_two_is_taken(order: tuple[KeyClaim, ...], store: Store) -> None:
    """An append takes all its keys or none."""
    claim(store, exclusive(), number=1)

    with pytest.raises(KeyTaken):
        claim(store, *order)

    assert 1 == claim(store, idempotency("k2"), number=3).version


def test_key_when_its_append_was_refused(store: Store) -> None:
    """A refused append claims nothing."""
    store.append(request(*FIRST))

    with pytest.raises(VersionConflict):
        store.append(request(NOTE, when=exactly(1), first_id=10, claims=(exclusive(),)))

    assert 1 == claim(store, exclusive()).version


def test_key_when_its_append_is_sent_again(store: Store) -> None:
    """An append that claimed its key finds itself, not its key taken."""
    first = claim(store, exclusive(), idempotency())

    again = claim(store, exclusive(), idempotency())

    assert (list(first.positions), True) == (list(again.positions), again.is_duplicate)


@pytest.mark.parametrize("before", [(), (NOTE,), (NOTE, NOTE, NOTE)])
def test_exclusive_key_when_its_run_closes(before: tuple[RunEvent, ...], store: Store) -> None:
    """A closing event gives an exclusive key back, and keeps an idempotency key, however many come in its append."""
    claim(store, exclusive(), idempotency(), number=1)

    store.append(request(*before, COMPLETED, when=exactly(1), run_id=a_run_id(1), first_id=10))

    assert 1 == claim(store, exclusive(), number=2).version
    with pytest.raises(KeyTaken) as refusal:
        claim(store, idempotency(), number=3)
    assert a_run_id(1) == refusal.value.run_id


def test_exclusive_key_when_another_run_closes(store: Store) -> None:
    """A closing event gives back the keys of its own run only."""
    claim(store, exclusive(), number=1)
    claim(store, exclusive("dev"), number=2)

    store.append(request(COMPLETED, when=exactly(1), run_id=a_run_id(2), first_id=10))

    with pytest.raises(KeyTaken):
        claim(store, exclusive(), number=3)


def test_exclusive_key_when_closing_is_repeated(store: Store) -> None:
    """A repeated closing append takes no key from the run that has it now."""
    claim(store, exclusive(), number=1)
    closing: dict[str, Any] = {"when": exactly(1), "run_id": a_run_id(1), "first_id": 10}
    store.append(request(COMPLETED, **closing))
    claim(store, exclusive(), number=2)

    store.append(request(COMPLETED, **closing))

    with pytest.raises(KeyTaken) as refusal:
        claim(store, exclusive(), number=3)
    assert a_run_id(2) == refusal.value.run_id


def test_key_when_it_looks_like_another(store: Store) -> None:
    """Keys are compared by their characters: wildcards, quotes, case and trailing spaces are nothing special."""
    spellings = ["main", "main ", "MAIN", "ma%", "ma_n", "m'ain", "mäin", "ma\u0308in"]

    for number, key in enumerate(spellings, 1):
        claim(store, exclusive(key), number=number)

    for number, key in enumerate(spellings, 1):
        with pytest.raises(KeyTaken) as refusal:
            claim(store, exclusive(key), number=99)
        assert a_run_id(number) == refusal.value.run_id


@pytest.mark.parametrize("later", [NOTE, FAILED])
def test_append_when_the_group_closed_the_stream_before(store: Store, later: RunEvent) -> None:
    """Of appends that are committed together, what comes after the one that closes the stream is refused."""
    store.append(request(*FIRST, when=NO_RUN))
    for first_id in (11, 12):  # once known, a stream is appended to without a guard
        store.append(request(NOTE, when=unless_closed(), first_id=first_id))

    closed, refused = store.append_all(
        [
            request(COMPLETED, when=exactly(4), first_id=21),
            request(later, when=unless_closed(), first_id=22),
        ]
    )

    assert isinstance(closed, Appended)
    assert isinstance(refused, RunClosed)
    assert 5 == len(stored(store))
