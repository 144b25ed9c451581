"""Purging a run on every store: what goes, what stays, and what happens meanwhile."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

import ledger
from ledger import IllegalTransition, InvalidInput, Ledger, RunNotFound, RunPurged, Status
from ledger.run.codec import decode_page
from ledger.run.events import Annotated, Purged
from projections import Runs, catch_up, rebuild, verify
from projections.stores import open_run_tables

pytestmark = pytest.mark.erases

UNKNOWN = "0192f3a0-0000-7000-8000-00000000ffff"


def a_finished_run(log: Ledger, *, results: int = 2, **facts: Any) -> str:
    run = log.enqueue("test", **{"project": "web", "labels": {"owner": "lovelace"}, **facts})
    log.start(run.id, worker="w1")
    if results:
        log.append_results(run.id, [{"status": "passed", "testId": f"T{number}"} for number in range(results)])
    log.append_log(run.id, ["secret"])
    log.complete(run.id)
    return run.id


def a_deleted_run(log: Ledger, **facts: Any) -> str:
    run_id = a_finished_run(log, **facts)
    log.delete(run_id, reason="old")
    return run_id


def erased_versions(log: Ledger, run_id: str) -> list[int]:
    return [event.version for event in log.read(run_id) if event.data is None]


def envelopes(log: Ledger, run_id: str) -> list[Any]:
    return [(event.position, event.version, event.envelope) for event in log.read(run_id)]


def rows(log: Ledger) -> list[Any]:
    generation = catch_up(log)
    return list(open_run_tables(log.store).scan(generation, after_run_id="", limit=1_000))


@pytest.fixture
def small_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Erase three events at a time."""
    monkeypatch.setattr("ledger.limits.ERASE_EVENTS", 3)


# --- what goes and what stays -------------------------------------------------------------------------------------


def test_purge_when_the_run_is_in_the_bin(log: Ledger) -> None:
    """Every earlier payload goes; envelopes, versions and positions stay, and one event says what is left."""
    run_id = a_deleted_run(log)
    before, state = envelopes(log, run_id), log.state(run_id)

    outcome = log.bind(actor="ada").purge(run_id, reason="asked for")

    after = envelopes(log, run_id)
    last = list(log.read(run_id))[-1]
    assert list(range(1, state.version + 1)) == erased_versions(log, run_id)
    assert before == after[:-1]
    assert outcome
    assert outcome.winner == last
    assert isinstance(last.data, Purged)
    assert ("ada", "asked for", True) == (last.actor, last.data.reason, last.data.is_whole)
    assert ("test", "web", Status.COMPLETED, 2, state.finished_at) == (
        *(last.data.skeleton.kind, last.data.skeleton.project, last.data.skeleton.status),
        *(last.data.skeleton.passed, last.data.skeleton.finished_at),
    )


def test_purge_when_the_run_is_read_afterwards(log: Ledger) -> None:
    """A purged run shows its skeleton, wherever it is read; it is in no list but that of purged runs."""
    run_id, other = a_deleted_run(log), a_finished_run(log)
    before = log.state(run_id)

    log.purge(run_id)

    runs = Runs(log)
    for state in (log.state(run_id), runs.get(run_id), runs.list(deleted="purged").runs[0]):
        assert ("test", "web", Status.COMPLETED, 2) == (state.kind, state.project, state.status, state.passed)
        assert (before.created_at, before.finished_at) == (state.created_at, state.finished_at)
        assert ({}, None) == (state.labels, state.error)
        assert before.version + 1 == state.purged_version
        assert state.purged_at is not None
    lists = {deleted: [run.id for run in runs.list(deleted=deleted).runs] for deleted in ("exclude", "only", "purged")}
    assert {"exclude": [other], "only": [], "purged": [run_id]} == lists
    assert {run_id, other} == {run.id for run in runs.list(deleted="include").runs}
    assert (1, 0, 1, 2) == tuple(runs.count(deleted=word) for word in ("exclude", "only", "purged", "include"))
    assert [] == runs.list(deleted="include", labels={"owner": "lovelace"}, kind="test").runs[1:]


def test_purge_when_repeated(log: Ledger) -> None:
    """Purging again changes nothing, and says that nothing had to be written."""
    run_id = a_deleted_run(log)
    log.purge(run_id)
    before = envelopes(log, run_id)

    again = log.purge(run_id, reason="again")

    assert (True, None) == (again.won, again.winner)
    assert before == envelopes(log, run_id)
    assert before[-1][1] == log.state(run_id).purged_version
    assert list(log.read(run_id))[-1].data is not None


@pytest.mark.parametrize("status", ["queued", "running", "interrupted", "scheduled"])
def test_purge_when_the_run_is_active(status: str, log: Ledger) -> None:
    """An active run is never purged, from the bin or not."""
    run_id = log.enqueue("test", not_before=datetime(2999, 1, 1, tzinfo=UTC) if status == "scheduled" else None).id
    if status in ("running", "interrupted"):
        log.start(run_id, worker="w1")
    if status == "interrupted":
        log.interrupt(run_id, reason="gone")

    for from_bin in (True, False):
        with pytest.raises(IllegalTransition, match="an active run is never purged"):
            log.purge(run_id, from_bin=from_bin)

    assert [] == erased_versions(log, run_id)
    assert status == log.state(run_id).status


def test_purge_when_the_run_is_not_in_the_bin(log: Ledger) -> None:
    """Purging takes two steps, delete and purge, unless the caller says that one will do."""
    run_id = a_finished_run(log)

    with pytest.raises(IllegalTransition, match="delete it first"):
        log.purge(run_id)
    untouched = erased_versions(log, run_id)
    log.purge(run_id, from_bin=False)

    state = log.state(run_id)
    assert [] == untouched
    assert (True, True) == (state.purged_at is not None, state.deleted_at is not None)
    assert [] == Runs(log).list().runs


def test_purge_when_the_run_is_unknown(log: Ledger) -> None:
    """An unknown run cannot be purged, and a mistaken reason is refused before anything happens."""
    run_id = a_deleted_run(log)

    with pytest.raises(RunNotFound):
        log.purge(UNKNOWN)
    with pytest.raises(InvalidInput, match="reason"):
        log.purge(run_id, reason="x" * 5_000)

    assert [] == erased_versions(log, run_id)


def test_purge_when_its_key_is_used_again(log: Ledger) -> None:
    """The answer to an idempotency key outlives the purge: same facts, same run; other facts, an error."""
    facts = {"idempotency_key": "delivery-1", "project": "web", "labels": {"owner": "lovelace"}}
    run_id = a_deleted_run(log, idempotency_key="delivery-1")
    log.purge(run_id)

    handle = log.enqueue("test", **facts)  # type: ignore[arg-type]

    assert (run_id, False) == (handle.id, handle.is_new)
    with pytest.raises(ledger.IdempotencyMismatch) as refusal:
        log.enqueue("test", **{**facts, "labels": {}})  # type: ignore[arg-type]
    assert run_id == refusal.value.run_id


LATE: dict[str, Callable[[Ledger, str], object]] = {
    "log": lambda log, run_id: log.append_log(run_id, ["late"]),
    "log of a shard": lambda log, run_id: log.append_log(run_id, ["late"], shard=0),
    "artifact": lambda log, run_id: log.record_artifact(run_id, "a", "file:///a"),
    "note": lambda log, run_id: log.annotate(run_id, note="late"),
    "restore": lambda log, run_id: log.restore(run_id),
}


@pytest.mark.parametrize("late", LATE)
def test_purged_run_when_something_is_added(late: str, log: Ledger) -> None:
    """A purged run takes nothing in and does not come back: there would be data again that nobody erases."""
    run_id = a_deleted_run(log)
    log.purge(run_id)
    before = envelopes(log, run_id)

    with pytest.raises(RunPurged, match="erased for good"):
        LATE[late](log, run_id)

    assert before == envelopes(log, run_id)


def test_purged_run_when_commands_come(log: Ledger) -> None:
    """Commands to a purged run get the answers of a finished one: who ended it, though not with what."""
    run_id = a_deleted_run(log)
    log.purge(run_id)

    completed, deleted = log.complete(run_id), log.delete(run_id)

    assert (False, "completed", None) == (completed.won, completed.winner.type, completed.winner.data)  # type: ignore[union-attr]
    assert (True, None) == (deleted.won, deleted.winner)
    assert 0 == log.append_results(run_id, [{"status": "passed"}], shard=0)
    assert 0 == log.increment_stats(run_id, passed=1)
    assert not log.increment_shards_completed(run_id)


def test_purged_run_when_something_got_in_all_the_same(log: Ledger) -> None:
    """What the low level added to a purged run does not change it, and the next purge erases it."""
    run_id = a_deleted_run(log)
    log.purge(run_id)
    purged = log.state(run_id)
    log.append(run_id, [Annotated(note="smuggled"), Annotated(labels={"a": "b"})])

    kept = log.state(run_id)
    log.purge(run_id)

    assert ({}, purged.purged_at) == (kept.labels, kept.purged_at)
    events = list(log.read(run_id))
    assert [None] * (len(events) - 1) == [event.data for event in events[:-1]]
    assert (purged.kind, purged.finished_at, purged.passed) == (
        *(log.state(run_id).kind, log.state(run_id).finished_at),
        log.state(run_id).passed,
    )
    assert verify(log)


# --- a long run ---------------------------------------------------------------------------------------------------


def test_purge_when_the_run_is_long(log: Ledger, small_bits: None) -> None:
    """A long run is purged bit by bit; in the end it is as a short one."""
    run_id = a_deleted_run(log)
    for _ in range(20):
        log.append_log(run_id, ["line"])

    outcome = log.purge(run_id, reason="old")

    *past, last = log.read(run_id)
    assert [None] * len(past) == [event.data for event in past]
    assert outcome.winner == last
    assert ("purged", "purged") == (past[-1].type, last.type)
    assert log.state(run_id).purged_at is not None
    assert [run_id] == [run.id for run in Runs(log).list(deleted="purged").runs]
    assert verify(log)


@pytest.mark.parametrize(("events", "purges"), [(9, 1), (10, 1), (11, 2)])
def test_purge_at_the_limit_of_one_transaction(
    events: int, purges: int, log: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of as many events as one transaction erases is purged at once; one more takes a second."""
    monkeypatch.setattr("ledger.limits.ERASE_EVENTS", 10)
    run_id = a_deleted_run(log)
    while log.state(run_id).version < events:
        log.append_log(run_id, ["line"])

    log.purge(run_id)

    assert purges == len([event for event in log.read(run_id) if event.type == "purged"])
    assert list(range(1, events + purges)) == erased_versions(log, run_id)


@pytest.mark.parametrize("turns", [1, 2, 5])
def test_purge_when_it_breaks_off(turns: int, log: Ledger, small_bits: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A purge that breaks off leaves a run that takes nothing in, is in the bin, and that the next one finishes."""
    run_id = a_deleted_run(log)
    for _ in range(20):
        log.append_log(run_id, ["line"])
    take_turn, taken = log.store.in_turn, []

    def few_turns(run: Any) -> Any:
        if len(taken) == turns:
            raise ConnectionAbortedError
        taken.append(run)
        return take_turn(run)

    monkeypatch.setattr(log.store, "in_turn", few_turns)
    with pytest.raises(ConnectionAbortedError):
        log.purge(run_id)
    monkeypatch.undo()

    broken = log.state(run_id)
    assert list(range(1, 3 * turns + 1)) == erased_versions(log, run_id)
    assert (True, None) == (broken.purged_version > 0, broken.purged_at)
    assert [(run_id, broken.purged_version)] == [
        (run.id, run.purged_version) for run in Runs(log).list(deleted="only").runs
    ]
    with pytest.raises(RunPurged):
        log.append_log(run_id, ["late"])
    with pytest.raises(RunPurged):
        log.restore(run_id)
    assert verify(log)

    log.purge(run_id)

    assert log.state(run_id).purged_at is not None
    assert list(range(1, broken.purged_version + 1)) == erased_versions(log, run_id)
    assert [] == Runs(log).list(deleted="only").runs
    assert verify(log)


# --- at any moment before -----------------------------------------------------------------------------------------


def test_run_when_read_as_of_before_its_purge(log: Ledger) -> None:
    """As of a moment before, a purged run shows its status then, and that the rest is erased."""
    run_id = a_deleted_run(log)
    moments = [event.recorded_at for event in log.read(run_id)]
    known = [log.state(run_id, at=version) for version in range(1, 7)]
    log.purge(run_id)
    runs = Runs(log)

    left = [runs.get(run_id, at=version) for version in range(1, 7)]

    assert [state.status for state in known] == [state.status for state in left]
    assert [state.attempt for state in known] == [state.attempt for state in left]
    assert [(state.created_at, state.finished_at) for state in known] == [
        (state.created_at, state.finished_at) for state in left
    ]
    assert {("test", "web", 0, 7)} == {
        (state.kind, state.project, state.passed, state.purged_version) for state in left
    }
    assert [None] * 6 == [state.purged_at for state in left]
    assert [state.deleted_at is None for state in known] == [state.deleted_at is None for state in left]
    [listed] = runs.list(at=moments[1], project="web").runs
    assert (run_id, Status.RUNNING) == (listed.id, listed.status)


# --- rows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("catches_up_before", [True, False])
def test_rows_when_runs_are_purged(catches_up_before: bool, log: Ledger, small_bits: None) -> None:
    """Rows are the same bytes whether they were folded before the erasure, after it, or are rebuilt."""
    made = [a_deleted_run(log, results=number) for number in range(4)]
    a_finished_run(log)
    if catches_up_before:
        rows(log)

    for run_id in made[1:]:
        log.purge(run_id)

    caught_up = rows(log)
    assert verify(log)
    rebuild(log)
    assert caught_up == rows(log)
    text = b"".join(row.run + row.state for row in caught_up if row.deleted_at == "")
    assert (3, False, False) == (
        len([row for row in caught_up if row.deleted_at == ""]),
        b"lovelace" in text,
        b"w1" in text,
    )


def test_verify_when_runs_are_purged_meanwhile(log: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that were folded before a purge which comes while they are compared are no difference."""
    made = [a_deleted_run(log) for _ in range(5)]
    calls: list[str] = []

    def catch_up_and_purge(log: Ledger, name: str) -> int:
        generation = catch_up(log, name)
        if not calls:
            for run in made:
                log.purge(run)
        calls.append(name)
        return generation

    monkeypatch.setattr("projections.projector.catch_up", catch_up_and_purge)

    assert verify(log)
    assert 2 == len(calls)


def test_rebuild_when_runs_are_purged_meanwhile(log: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rebuilds, catch-ups and lists go on while runs are purged: no row is ever half of one, all are the log's."""
    for name, value in (("ledger.limits.ERASE_EVENTS", 2), ("projections.projector.PAGE_EVENTS", 7)):
        monkeypatch.setattr(name, value)
    made = [a_deleted_run(log, results=3) for _ in range(25)]
    done = threading.Event()

    def purge() -> None:
        try:
            for run_id in made:
                log.purge(run_id)
        finally:
            done.set()

    def build() -> None:
        while not done.is_set():
            rebuild(log)

    def read() -> None:
        runs = Runs(log)
        while not done.is_set():
            for run in runs.list(deleted="include", limit=100).runs:
                assert ("test", "web", Status.COMPLETED, 3) == (run.kind, run.project, run.status, run.passed)
                assert (run.labels == {}) is (run.purged_version > 0)

    errors = run_at_once(purge, build, read)

    assert [] == errors
    assert verify(log)
    assert 25 == Runs(log).count(deleted="purged")


def test_verify_when_payloads_are_gone_without_a_purge(log: Ledger) -> None:
    """Payloads that were erased behind the ledger's back are found: the row is no fold of what is there."""
    run_id = a_finished_run(log)
    a_finished_run(log)
    catch_up(log)
    with log.store.in_turn(ledger.RunId(run_id)) as turn:
        turn.erase(ledger.RunId(run_id), after_version=0, up_to=3, limit=10)

    found = verify(log)

    assert (run_id,) == found.differing


# --- readers and writers meanwhile --------------------------------------------------------------------------------


def test_subscriber_when_it_reads_across_a_purge(log: Ledger) -> None:
    """Subscribers that come before, meanwhile and after see every event once, in order, erased ones without data."""
    first, second = a_deleted_run(log), a_finished_run(log)
    with log.subscribe() as early:
        seen = [next(early)]
        log.purge(first)
        log.annotate(second, note="done")
        while seen[-1].type != "annotated":
            seen.append(next(early))
    with log.subscribe() as late:
        again = [next(late) for _ in seen]

    assert [(event.position, event.envelope) for event in seen] == [(event.position, event.envelope) for event in again]
    assert sorted({event.position for event in seen}) == [event.position for event in seen]
    gone = [event for event in again if event.run_id == first and event.type != "purged"]
    assert [None] * 6 == [event.data for event in gone]
    assert all(event.data is not None for event in again if event.run_id == second)
    assert ["purged"] == [event.type for event in log.read_all(types=["purged"])]


def run_at_once(*acts: Callable[[], object]) -> list[BaseException]:
    """Run functions in threads that begin together; give the errors that they met."""
    begun, errors = threading.Barrier(len(acts)), []

    def run(act: Callable[[], object]) -> None:
        begun.wait()
        try:
            act()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(act,), daemon=True) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return errors


def test_purge_when_others_append_and_read_meanwhile(log: Ledger, small_bits: None) -> None:
    """Appends that race with a purge are in before it and erased, or are refused: nothing is left un-erased."""
    run_id = a_deleted_run(log)
    read: list[int] = []

    def append() -> None:
        for index in range(10_000):
            log.append_log(run_id, [str(index)])

    def write() -> None:
        with pytest.raises(RunPurged):
            append()

    def follow() -> None:
        with log.subscribe(run_id=run_id) as events:
            for event in events:
                read.append(event.version)
                if isinstance(event.data, Purged) and event.data.is_whole:
                    return

    def purge() -> None:
        log.purge(run_id)

    assert [] == run_at_once(write, write, follow, purge, purge)

    *past, last = log.read(run_id)
    assert [None] * len(past) == [event.data for event in past]
    assert isinstance(last.data, Purged)
    assert list(range(1, last.version + 1)) == read
    assert verify(log)


def test_purges_when_several_race(log: Ledger) -> None:
    """Of several who purge a run at once one writes the event, and the others find it done."""
    run_id = a_deleted_run(log)
    outcomes: list[ledger.Outcome] = []

    errors = run_at_once(*[lambda: outcomes.append(log.purge(run_id))] * 8)

    assert [] == errors
    assert [True] * 8 == [outcome.won for outcome in outcomes]
    assert 1 == len([outcome for outcome in outcomes if outcome.winner is not None])
    assert 1 == len([event for event in log.read(run_id) if event.type == "purged"])


# --- the store ----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(log: Ledger) -> ledger.RunId:
    return ledger.RunId(a_finished_run(log))


@pytest.mark.parametrize(
    ("after", "up_to", "limit", "end", "gone"),
    [(0, 5, 10, 5, [1, 2, 3, 4, 5]), (0, 5, 2, 2, [1, 2]), (2, 4, 10, 4, [3, 4]), (4, 4, 10, 4, []), (1, 5, 1, 2, [2])],
)
def test_erase_at_every_place(
    after: int, up_to: int, limit: int, end: int, gone: list[int], log: Ledger, run: ledger.RunId
) -> None:
    """Erasing takes the next events up to the limit, and says how far it came."""
    with log.store.in_turn(run) as turn:
        reached = turn.erase(run, after_version=after, up_to=up_to, limit=limit)

    assert (end, gone) == (reached, erased_versions(log, run))


def test_erase_when_the_turn_is_abandoned(log: Ledger, run: ledger.RunId) -> None:
    """A turn that is rolled back brings back what it erased."""
    before = list(log.read(run))

    def abandon() -> None:
        with log.store.in_turn(run) as turn:
            turn.erase(run, after_version=0, up_to=5, limit=10)
            assert [None] * 5 == [e.data for e in decode_page(turn.read_run(run, after_version=0, limit=9).events)]
            raise InterruptedError

    with pytest.raises(InterruptedError):
        abandon()

    assert before == list(log.read(run))


def test_erase_when_events_are_large(log: Ledger) -> None:
    """Large events are erased a few at a time, however many are asked for."""
    run = log.enqueue("test").id
    for _ in range(6):
        log.append_log(run, ["x" * 16_000] * 60)
    version = log.state(run).version

    with log.store.in_turn(ledger.RunId(run)) as turn:
        reached = turn.erase(ledger.RunId(run), after_version=0, up_to=version, limit=100)

    assert reached == version if log.store.url == "memory:" else 1 <= reached < version
    log.abort(run)
    log.purge(run, from_bin=False)
    assert log.state(run).purged_at is not None


def test_append_when_repeated_after_its_erasure(log: Ledger) -> None:
    """An event that is sent again after its payload was erased gets its first place back."""
    run_id = log.enqueue("test").id
    event_id = "0192f3a0-0000-7000-9000-000000000001"
    first = log.append(run_id, [Annotated(note="n")], event_ids=[event_id])
    log.abort(run_id)
    log.purge(run_id, from_bin=False)

    again = log.append(run_id, [Annotated(note="n")], event_ids=[event_id])

    assert (list(first.positions), True) == (list(again.positions), again.is_duplicate)


@pytest.mark.parametrize("fence", [None, "shard 0"])
def test_append_when_the_stream_was_purged(fence: str | None, log: Ledger) -> None:
    """A purge refuses whoever only asks that the stream exists, behind whatever fence."""
    run_id = a_deleted_run(log)
    log.purge(run_id)
    version = log.state(run_id).version

    with pytest.raises(RunPurged) as refusal:
        log.append(run_id, [Annotated(note="n")], when=msgspec.structs.replace(ledger.EXISTS, fence=fence, epoch=3))
    appended = log.append(run_id, [Annotated(note="n")], when=ledger.exactly(version))

    assert (run_id, version + 1) == (refusal.value.run_id, appended.version)


def test_worker_when_its_run_was_purged(log: Ledger) -> None:
    """A worker that still holds the lease of a purged run is refused like everybody else."""
    log.enqueue("test")
    [lease] = log.claim("w1", lease_s=60)
    held = log.under(lease)
    held.append_log(lease.run_id, ["secret"])
    held.complete(lease.run_id)
    log.purge(lease.run_id, from_bin=False)

    with pytest.raises(RunPurged):
        held.append_log(lease.run_id, ["late"])

    assert log.state(lease.run_id).version == log.state(lease.run_id).purged_version


@pytest.mark.parametrize("is_committed", [True, False])
@pytest.mark.parametrize("is_long", [True, False])
def test_purge_when_its_outcome_is_unknown(
    is_committed: bool, is_long: bool, log: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settling a purge erases what it was to erase, whether the event of the lost commit is there or not."""
    if is_long:
        monkeypatch.setattr("ledger.limits.ERASE_EVENTS", 3)
    run_id = a_deleted_run(log)
    take_turn = log.store.in_turn

    @contextmanager
    def lost_turn(run: ledger.RunId) -> Iterator[Any]:
        monkeypatch.setattr(log.store, "in_turn", take_turn)
        unknown = ledger.OutcomeUnknown(event_ids=["e"], request=None)
        with take_turn(run) as turn:
            append = turn.append

            def note_and_append(request: Any) -> Any:
                unknown.request = request
                return append(request)

            monkeypatch.setattr(turn, "append", note_and_append)
            yield turn
            monkeypatch.setattr(turn, "append", append)
            if not is_committed:
                raise unknown
        raise unknown

    monkeypatch.setattr(log.store, "in_turn", lost_turn)
    with pytest.raises(ledger.OutcomeUnknown) as error:
        log.purge(run_id, reason="old")

    appended = log.resolve(error.value)

    *past, last = log.read(run_id)
    assert [None] * len(past) == [event.data for event in past]
    assert isinstance(last.data, Purged)
    assert (True, "old") == (last.data.is_whole, last.data.reason)
    assert (last.version, [last.position]) == (appended.version, list(appended.positions))
    assert appended.is_duplicate is (is_committed and not is_long)
    assert (2 if is_long else 1) == len([event for event in [*past, last] if event.type == "purged"])
    assert verify(log)
