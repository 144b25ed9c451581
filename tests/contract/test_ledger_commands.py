"""The ledger's commands: what each answers, who wins, and what is in the log after it."""

import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from builders import LATER, NOON, RUN, UNKNOWN_RUN, a_run_id, an_event_id

import ledger
from ledger import Kind, Ledger, Outcome, Status, Verdict, exactly, limits, unless_closed
from ledger.errors import (
    EventIdReused,
    ExclusiveKeyTaken,
    IdempotencyMismatch,
    IllegalTransition,
    OutcomeUnknown,
    RunClosed,
    RunNotFound,
    ShardSuperseded,
    VersionConflict,
)
from ledger.run.events import Annotated, Completed, Enqueued, Failed, LogAppended, ShardResultAppended
from ledger.store import AppendRequest
from projections import Runs

KINDS = (Kind(name="build", phases=("compile", "link"), failed_verdict_fails=True, attempts_max=2),)


class Clock:
    """Tells a time that only tests move."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(ledger_url: str, clock: Clock) -> Iterator[Ledger]:
    with ledger.open(ledger_url, clock=clock, kinds=KINDS, migrate=True) as opened:
        yield opened


def types(log: Ledger, run_id: str) -> list[str]:
    return [event.type for event in log.read(run_id)]


def running(log: Ledger, **facts: Any) -> str:
    run_id = log.enqueue("test", **facts).id
    log.start(run_id, worker="w1")
    return run_id


# --- outcomes and winners -----------------------------------------------------------------------------------------

END: dict[str, Callable[[Ledger, str], Outcome]] = {
    "completed": lambda log, run_id: log.complete(run_id),
    "failed": lambda log, run_id: log.fail(run_id, error="boom", category="crash"),
    "aborted": lambda log, run_id: log.abort(run_id, reason="enough"),
}


@pytest.mark.parametrize("second", END)
@pytest.mark.parametrize("first", END)
def test_end_when_another_was_first(first: str, second: str, log: Ledger) -> None:
    """The first terminal event wins; the loser is handed that event, and nothing of it changes."""
    run_id = running(log)
    ann, bob = log.bind(actor="ann"), log.bind(actor="bob")

    won = END[first](ann, run_id)
    lost = END[second](bob, run_id)

    assert (True, False) == (bool(won), bool(lost))
    assert won.winner is not None
    assert won.winner == lost.winner == list(log.read(run_id))[-1]
    assert (first, "ann", 3, NOON) == (
        won.winner.type,
        won.winner.actor,
        won.winner.version,
        won.winner.recorded_at,
    )
    assert ["enqueued", "started", first] == types(log, run_id)


@pytest.mark.parametrize("command", END)
def test_end_when_sent_again_with_its_event_id(command: str, log: Ledger) -> None:
    """A caller that lost the answer sends the same event id, and has won still."""
    run_id = running(log)
    ends: dict[str, Callable[[], Outcome]] = {
        "completed": lambda: log.complete(run_id, event_id=an_event_id(1)),
        "failed": lambda: log.fail(run_id, error="boom", event_id=an_event_id(1)),
        "aborted": lambda: log.abort(run_id, event_id=an_event_id(1)),
    }

    first, again = ends[command](), ends[command]()

    assert (True, True, first.winner) == (first.won, again.won, again.winner)
    assert 3 == len(types(log, run_id))


def test_end_when_its_event_id_is_another_runs(log: Ledger) -> None:
    """An event id of another run's event is no proof of having won."""
    log.complete(running(log), event_id=an_event_id(1))
    other = running(log)

    with pytest.raises(EventIdReused):
        log.complete(other, event_id=an_event_id(1))

    assert ["enqueued", "started"] == types(log, other)


def test_complete_when_the_kind_fails_on_a_failed_verdict(log: Ledger) -> None:
    """Completing such a run fails it, and the caller's wish was heard: it won with another event."""
    run_id = log.enqueue("build").id
    log.start(run_id, worker="w1")
    log.append_results(run_id, [{"status": "failed"}])

    outcome = log.complete(run_id)

    assert outcome.winner is not None
    assert (True, "failed") == (outcome.won, outcome.winner.type)
    assert (Status.FAILED, Verdict.FAILED, "1 of 1 results failed") == (
        log.state(run_id).status,
        log.state(run_id).verdict,
        log.state(run_id).failure_summary,
    )


def test_complete_when_a_test_failed(log: Ledger) -> None:
    """A run of another kind completes with a failed verdict."""
    run_id = running(log)
    log.append_results(run_id, [{"status": "failed"}])

    log.complete(run_id)

    assert (Status.COMPLETED, Verdict.FAILED) == (log.state(run_id).status, log.state(run_id).verdict)


@pytest.mark.parametrize("command", END)
def test_end_when_the_caller_knows_the_time(command: str, log: Ledger, clock: Clock) -> None:
    """When a run ended and how long it took is what the caller says, else what the clock says."""
    ends: dict[str, Callable[..., Outcome]] = {
        "completed": log.complete,
        "failed": lambda run_id, **facts: log.fail(run_id, error="e", **facts),
        "aborted": log.abort,
    }
    told, counted = running(log), running(log)
    clock.now = LATER

    ends[command](told, finished_at=NOON + timedelta(minutes=1), duration_ms=5)
    ends[command](counted)

    assert (NOON + timedelta(minutes=1), 5) == (log.state(told).finished_at, log.state(told).duration_ms)
    assert (LATER, 3_600_000) == (log.state(counted).finished_at, log.state(counted).duration_ms)


def test_start_when_two_workers_want_it(log: Ledger) -> None:
    """One worker wins, asks again and still has; the other learns who."""
    run_id = log.enqueue("test").id

    first, other, again = (log.start(run_id, worker=worker) for worker in ("w1", "w2", "w1"))

    assert (True, False, True) == (first.won, other.won, again.won)
    assert (first.winner, None) == (other.winner, again.winner)
    assert ["enqueued", "started"] == types(log, run_id)


def test_start_when_32_threads_race(log: Ledger) -> None:
    """Exactly one of many workers starts a run, and all others are told the same winner."""
    run_id = log.enqueue("test").id
    barrier = threading.Barrier(32)
    outcomes: dict[int, Outcome] = {}

    def start(number: int) -> None:
        barrier.wait(30)
        outcomes[number] = log.start(run_id, worker=f"w{number}")

    threads = [threading.Thread(target=start, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    winners = {outcome.winner.event_id for outcome in outcomes.values() if outcome.winner is not None}
    assert (32, 1, 1) == (len(outcomes), sum(outcome.won for outcome in outcomes.values()), len(winners))
    assert ["enqueued", "started"] == types(log, run_id)


def test_resume_when_two_workers_want_it(log: Ledger) -> None:
    """An interrupted run is taken up again by one worker."""
    run_id = running(log)
    log.interrupt(run_id, reason="lease lost")

    first, other = log.resume(run_id, worker="w2"), log.resume(run_id, worker="w3")

    assert (True, False) == (first.won, other.won)
    assert first.winner == other.winner
    assert (Status.RUNNING, "w2", 1) == (
        log.state(run_id).status,
        log.state(run_id).worker,
        log.state(run_id).attempt,
    )


def test_command_when_late(log: Ledger) -> None:
    """Work on a finished run is lost to its terminal event, without an error and without an event."""
    run_id = running(log)
    won = log.abort(run_id)

    late = [
        log.start(run_id, worker="w1"),
        log.enter_phase(run_id, "p"),
        log.resolve_version(run_id, "v"),
        log.finish_gate(run_id, "g", "passed"),
        log.interrupt(run_id, reason="r"),
        log.resume(run_id, worker="w"),
        log.fail_attempt(run_id, error="e"),
        log.request_abort(run_id),
        log.start_finalization(run_id, worker="w"),
        log.release(run_id),
    ]

    assert [(False, won.winner)] * len(late) == [(outcome.won, outcome.winner) for outcome in late]
    assert (0, 0, 0) == (
        log.append_results(run_id, [{"status": "passed"}]),
        log.increment_stats(run_id, passed=1),
        log.retry_shard(run_id, 0),
    )
    assert (False, False) == (bool(log.complete_shard(run_id, 0)), bool(log.increment_shards_completed(run_id)))
    assert ["enqueued", "started", "aborted"] == types(log, run_id)


def test_what_a_finished_run_still_takes(log: Ledger) -> None:
    """Logs, artifacts and notes are kept in every status; the bin is for finished runs."""
    run_id = running(log)
    log.complete(run_id)

    assert 1 == log.append_log(run_id, ["bye"])
    assert "artifact_recorded" == log.record_artifact(run_id, "trace", "s3://t").type
    assert "document_recorded" == log.record_document(run_id, "githubCheck", {"sha": "1"}).type
    assert "annotated" == log.annotate(run_id, note="flaky", labels={"b": "1", "a": None}).type
    assert (True, True) == (log.delete(run_id).won, log.delete(run_id).won)
    assert log.state(run_id).deleted_at is not None
    assert log.restore(run_id).won
    assert log.state(run_id).deleted_at is None
    assert ["log_appended", "artifact_recorded", "document_recorded", "annotated", "deleted", "restored"] == types(
        log, run_id
    )[3:]


def test_command_when_it_changes_nothing(log: Ledger) -> None:
    """Asking again for what is so writes nothing, and counts as won."""
    run_id = running(log)
    log.enter_phase(run_id, "p")
    log.resolve_version(run_id, "v")
    log.request_abort(run_id)
    log.start_finalization(run_id, worker="w")
    before = types(log, run_id)

    again = [
        log.enter_phase(run_id, "p"),
        log.resolve_version(run_id, "v"),
        log.request_abort(run_id, reason="other"),
        log.start_finalization(run_id, worker="w"),
        log.restore(run_id),
    ]

    assert [Outcome(ledger.RunId(run_id), True, None)] * 5 == again
    assert before == types(log, run_id)


def test_finalization_when_the_finalizer_died(log: Ledger) -> None:
    """Another worker takes a finalization over, and the log says who did when."""
    run_id = running(log)

    log.start_finalization(run_id, worker="w1")
    taken = log.start_finalization(run_id, worker="w2")

    assert (True, "w2") == (taken.won, log.state(run_id).finalizer)
    assert ["finalization_started"] * 2 == types(log, run_id)[2:]


def test_fail_attempt_when_one_is_left(log: Ledger) -> None:
    """A failed attempt goes back to the queue, or to the schedule, and the next one has the next number."""
    run_id = log.enqueue("build", attempts_max=3).id
    log.start(run_id, worker="w1")

    log.fail_attempt(run_id, error="oom", category="crash")
    queued = log.state(run_id)
    log.start(run_id, worker="w2")
    log.fail_attempt(run_id, error="oom", retry_at=LATER)
    scheduled = log.state(run_id)

    assert (Status.QUEUED, "oom", "crash") == (queued.status, queued.error, queued.error_category)
    assert (Status.SCHEDULED, LATER, 2) == (scheduled.status, scheduled.not_before, scheduled.attempt)


def test_scheduled_run_when_due(log: Ledger, clock: Clock) -> None:
    """A scheduled run starts when its time has come, or when it is released."""
    due, promoted = (log.enqueue("test", not_before=LATER).id for _ in range(2))
    with pytest.raises(IllegalTransition):
        log.start(due, worker="w")

    log.release(promoted)
    early = log.start(promoted, worker="w")
    clock.now = LATER
    late = log.start(due, worker="w")

    assert (True, True) == (early.won, late.won)
    assert ["enqueued", "released", "started"] == types(log, promoted) == types(log, due)


def test_phases_when_a_kind_declares_them(log: Ledger) -> None:
    """A kind's phases go in their order."""
    run_id = log.enqueue("build").id
    log.start(run_id, worker="w")

    log.enter_phase(run_id, "link")

    with pytest.raises(IllegalTransition, match="phase compile comes before link"):
        log.enter_phase(run_id, "compile")
    assert "link" == log.state(run_id).phase


# --- who, and why ------------------------------------------------------------------------------------------------


def test_bind_when_bound_twice(log: Ledger) -> None:
    """What is bound is in every event; a second binding adds to the first."""
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    bound = log.bind(actor="ann", traceparent=traceparent).bind(correlation_id="r-1", causation_id="e-1")
    run_id = bound.enqueue("test").id
    log.start(run_id, worker="w")

    [first, second] = log.read(run_id)
    assert ("ann", "r-1", "e-1", traceparent) == (
        first.actor,
        first.correlation_id,
        first.causation_id,
        first.traceparent,
    )
    assert (None, None, None, None) == (
        second.actor,
        second.correlation_id,
        second.causation_id,
        second.traceparent,
    )


@pytest.mark.parametrize("traceparent", ["", "garbage", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "ff-x"])
def test_bind_when_the_trace_is_invalid(traceparent: str, log: Ledger) -> None:
    """An invalid trace context is ignored, as the standard says."""
    run_id = log.bind(traceparent=traceparent).enqueue("test").id

    assert [None] == [event.traceparent for event in log.read(run_id)]


def test_open_when_an_actor_is_given(ledger_url: str) -> None:
    """An actor named when the ledger is opened acts in every event."""
    with ledger.open(ledger_url, actor="ci", migrate=True) as log:
        run_id = log.enqueue("test").id

        assert ["ci"] == [event.actor for event in log.read(run_id)]


# --- keys --------------------------------------------------------------------------------------------------------


def test_enqueue_when_its_key_is_known(log: Ledger, clock: Clock) -> None:
    """The same key with the same facts gives the same run, at any later time, and writes nothing."""
    first = log.enqueue("test", project="web", input={"a": 1, "b": 2}, idempotency_key="k1")
    clock.now = LATER

    again = log.enqueue("test", project="web", input={"b": 2, "a": 1}, idempotency_key="k1")

    assert (True, False, first.id) == (first.is_new, again.is_new, again.id)
    assert 1 == sum(1 for _ in log.read_all())


@pytest.mark.parametrize(
    "other",
    [{"input": {"a": 2}}, {"kind": "build"}, {"labels": {"a": "1"}}, {"priority": 1}, {"shard_count": 2}],
)
def test_enqueue_when_its_key_stands_for_other_facts(other: dict[str, Any], log: Ledger) -> None:
    """The same key with other facts is an error that names the run, and nothing is written."""
    facts: dict[str, Any] = {"kind": "test", "project": "web", "input": {"a": 1}, "idempotency_key": "k1"}
    first = log.enqueue(**facts)

    with pytest.raises(IdempotencyMismatch) as refusal:
        log.enqueue(**{**facts, **other})

    assert ("k1", first.id) == (refusal.value.key, refusal.value.run_id)
    assert 1 == sum(1 for _ in log.read_all())


def test_enqueue_when_its_key_is_another_projects(log: Ledger) -> None:
    """Keys are apart between projects, and from runs of none."""
    runs = {log.enqueue("test", project=project, idempotency_key="k1").id for project in ("web", "api", None)}

    assert 3 == len(runs)


def test_idempotency_key_when_its_run_is_finished(log: Ledger) -> None:
    """An idempotency key stands for its run for ever."""
    first = log.enqueue("test", idempotency_key="k1")
    log.abort(first.id)

    assert first.id == log.enqueue("test", idempotency_key="k1").id


def test_enqueue_when_its_run_id_is_known(log: Ledger) -> None:
    """A run of the caller's own id is made once; who won is the first one's event."""
    log.enqueue("test", run_id=RUN)

    with pytest.raises(VersionConflict) as refusal:
        log.enqueue("test", run_id=RUN)

    assert refusal.value.winner is not None
    assert ("enqueued", 1) == (refusal.value.winner.type, refusal.value.winner.version)


def test_exclusive_key_when_rejected(log: Ledger) -> None:
    """The error names the active run, and says what else could be asked for."""
    active = log.enqueue("test", project="web", exclusive_key="main")

    with pytest.raises(ExclusiveKeyTaken, match='on_active="return" or on_active="supersede"') as refusal:
        log.enqueue("test", project="web", exclusive_key="main")

    assert ("main", active.id) == (refusal.value.key, refusal.value.active_run_id)
    assert 1 == sum(1 for _ in log.read_all())


def test_exclusive_key_when_returned(log: Ledger) -> None:
    """The active run is given instead of a new one."""
    active = log.enqueue("test", exclusive_key="main")

    given = log.enqueue("build", exclusive_key="main", on_active="return")

    assert (active.id, False) == (given.id, given.is_new)


def test_exclusive_key_when_superseded(log: Ledger) -> None:
    """The active run is aborted as superseded, and the new one has the key."""
    active = log.enqueue("test", exclusive_key="main")
    log.start(active.id, worker="w")

    newer = log.bind(actor="ann").enqueue("test", exclusive_key="main", on_active="supersede")

    old = log.state(active.id)
    assert (Status.ABORTED, "superseded", "superseded") == (old.status, old.error, old.error_category)
    assert newer.is_new
    with pytest.raises(ExclusiveKeyTaken) as refusal:
        log.enqueue("test", exclusive_key="main")
    assert newer.id == refusal.value.active_run_id


@pytest.mark.parametrize("command", END)
def test_exclusive_key_when_its_run_ends(command: str, log: Ledger) -> None:
    """However a run ends, its exclusive key is free with that event."""
    first = running(log, exclusive_key="main")
    END[command](log, first)

    second = log.enqueue("test", exclusive_key="main")

    assert (True, True) == (second.is_new, second.id != first)


@pytest.mark.parametrize("status", ["queued", "interrupted", "failed attempt", "scheduled"])
def test_exclusive_key_when_its_run_rests(status: str, log: Ledger) -> None:
    """A run that is not finished keeps its key, whoever works on it."""
    not_before = LATER if status == "scheduled" else None
    active = log.enqueue("test", exclusive_key="main", attempts_max=2, not_before=not_before)
    if status in ("interrupted", "failed attempt"):
        log.start(active.id, worker="w")
    if status == "interrupted":
        log.interrupt(active.id, reason="gone")
    if status == "failed attempt":
        log.fail_attempt(active.id, error="e")

    with pytest.raises(ExclusiveKeyTaken):
        log.enqueue("test", exclusive_key="main")


@pytest.mark.parametrize("on_active", ["reject", "return", "supersede"])
def test_keys_when_both_are_known(on_active: Any, log: Ledger) -> None:
    """A repeated request finds its own run by the idempotency key, whatever it asks about active ones."""
    facts: dict[str, Any] = {"idempotency_key": "k1", "exclusive_key": "main", "on_active": on_active}
    first = log.enqueue("test", **facts)

    again = log.enqueue("test", **facts)

    assert (first.id, False, Status.QUEUED) == (again.id, again.is_new, log.state(first.id).status)


def test_exclusive_key_when_many_supersede_at_once(log: Ledger) -> None:
    """Of many that supersede each other, one is active in the end, and every other run was aborted once."""
    barrier = threading.Barrier(4)
    made: list[str] = []

    def enqueue() -> None:
        barrier.wait(30)
        made.append(log.enqueue("test", exclusive_key="main", on_active="supersede").id)

    threads = [threading.Thread(target=enqueue) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    statuses = sorted(log.state(run_id).status for run_id in made)
    assert [Status.ABORTED] * 3 + [Status.QUEUED] == statuses


# --- results, counters, shards -----------------------------------------------------------------------------------


def test_append_results_when_accepted(log: Ledger) -> None:
    """The answer is how many were appended; none is none, and writes nothing."""
    run_id = running(log, shard_count=2)

    answers = [
        log.append_results(run_id, [{"status": "passed"}, {"status": "failed"}], shard=0),
        log.append_results(run_id, [], shard=1),
        log.append_results(run_id, ({"status": "passed"},)),  # type: ignore[arg-type]
    ]

    assert [2, 0, 1] == answers
    state = log.state(run_id)
    assert (2, 1, 3, {"passed": 2, "failed": 1}) == (state.passed, state.failed, state.total, state.statuses)


def test_append_results_when_queued(log: Ledger) -> None:
    """Results may come before the run was started: seeded skips do."""
    run_id = log.enqueue("test").id

    assert 1 == log.append_results(run_id, [{"status": "skipped", "skipReason": "over_budget"}])


def test_append_results_when_sent_again(log: Ledger) -> None:
    """The same event id, or the same sequence numbers, count once."""
    run_id = running(log)
    batch = [{"status": "passed"}] * 3

    first = log.append_results(run_id, batch, event_id=an_event_id(1))
    by_id = log.append_results(run_id, batch, event_id=an_event_id(1))
    sequenced = [log.append_results(run_id, batch, shard=0, first_sequence=0) for _ in range(2)]

    assert (3, 3, [3, 3]) == (first, by_id, sequenced)
    assert 6 == log.state(run_id).passed


def test_append_results_when_the_shard_was_handed_on(log: Ledger) -> None:
    """An older attempt of a shard appends nothing any more; its siblings do, and the newer attempt."""
    run_id = running(log, shard_count=2)
    log.append_results(run_id, [{"status": "failed"}], shard=0)

    attempt = log.retry_shard(run_id, 0, reason="lease lost")

    answers = [
        log.append_results(run_id, [{"status": "failed"}], shard=0, shard_attempt=1),
        log.append_results(run_id, [{"status": "passed"}], shard=0, shard_attempt=attempt),
        log.append_results(run_id, [{"status": "passed"}], shard=1),
    ]
    assert (2, [0, 1, 1], (2, 0)) == (attempt, answers, (log.state(run_id).passed, log.state(run_id).failed))


def test_increment_stats_when_counted(log: Ledger) -> None:
    """Deltas add up; none at all is 0 and writes nothing."""
    run_id = running(log)

    answers = [
        log.increment_stats(run_id, passed=2, failed=1, total=5),
        log.increment_stats(run_id, passed=-1),
        log.increment_stats(run_id),
    ]

    state = log.state(run_id)
    assert ([1, 1, 0], (1, 1, 5), 4) == (answers, (state.passed, state.failed, state.total), state.version)


def test_increment_stats_when_sent_again(log: Ledger) -> None:
    """The same event id counts once."""
    run_id = running(log)

    answers = [log.increment_stats(run_id, passed=1, event_id=an_event_id(1)) for _ in range(2)]

    assert ([1, 1], 1) == (answers, log.state(run_id).passed)


def test_complete_shard_when_all_are_done(log: Ledger) -> None:
    """A shard counts once, and each call says how many are complete."""
    run_id = running(log, shard_count=2)

    answers = [log.complete_shard(run_id, shard, exit_code=0) for shard in (0, 0, 1, 1)]

    assert [(True, 1), (False, 1), (True, 2), (False, 2)] == [(it.advanced, it.new_value) for it in answers]


def test_increment_shards_completed_when_at_the_cap(log: Ledger) -> None:
    """The anonymous counter stops at the number of shards, which is 1 for a run that is not cut."""
    cut, whole = running(log, shard_count=2), running(log)

    answers = [log.increment_shards_completed(run_id) for run_id in (cut, cut, cut, whole, whole)]

    assert [(True, 1), (True, 2), (False, 2), (True, 1), (False, 1)] == [(it.advanced, it.new_value) for it in answers]


def test_increment_shards_completed_when_threads_race(log: Ledger) -> None:
    """Each call that advances gets a number of its own, and one of them the last."""
    run_id = running(log, shard_count=8)
    answers: list[tuple[bool, int]] = []

    def advance() -> None:
        for _ in range(3):
            answer = log.increment_shards_completed(run_id)
            answers.append((answer.advanced, answer.new_value))

    threads = [threading.Thread(target=advance) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert [(False, 8)] * 4 + [(True, number) for number in range(1, 9)] == sorted(answers)


def test_log_lines_when_appended(log: Ledger) -> None:
    """Lines keep their order, source, level and shard."""
    run_id = running(log, shard_count=2)

    answers = [
        log.append_log(run_id, ["a", "", "ä"], source="stderr", level="warn", shard=1),
        log.append_log(run_id, []),
    ]

    assert [3, 0] == answers
    assert LogAppended(lines=["a", "", "ä"], source="stderr", level="warn", shard=1) == list(log.read(run_id))[-1].data


def test_annotate_when_labels_change(log: Ledger) -> None:
    """Labels are set and taken away in every status."""
    run_id = log.enqueue("test", labels={"a": "1", "b": "2"}).id

    log.annotate(run_id, labels={"b": None, "c": "3"})

    assert {"a": "1", "c": "3"} == log.state(run_id).labels


def test_annotate_when_a_run_is_full_of_labels(log: Ledger) -> None:
    """A run keeps so many labels over all calls: a new name waits for room, known ones change, removing makes room."""
    first = {f"n{number:02}": "1" for number in range(limits.LABELS_MAX - 1)}
    run_id = log.enqueue("test", labels=first).id

    log.annotate(run_id, labels={"x": "1", "y": "1"})
    full = log.state(run_id).labels
    log.annotate(run_id, labels={"n00": "2", "z": "1"})
    changed = log.state(run_id).labels
    log.annotate(run_id, labels={"a": "1", "n00": None, "n01": None, "z": "3"})
    exchanged = log.state(run_id).labels

    assert {**first, "x": "1"} == full
    assert {**first, "x": "1", "n00": "2"} == changed
    assert {"a": "1", "x": "1", "z": "3", **dict(list(first.items())[2:])} == exchanged
    assert list(exchanged) == sorted(exchanged)
    assert log.state(run_id) == Runs(log).get(run_id)
    assert exchanged == Runs(log).list(labels={"z": "3"}).runs[0].labels


# --- the low level ------------------------------------------------------------------------------------------------


def test_append_when_conditions_hold(log: Ledger) -> None:
    """Events of one append go in together, at the versions that the answer names."""
    run_id = a_run_id(7)

    first = log.append(run_id, [Enqueued(kind="test", enqueued_at=NOON), Annotated(note="n")], when=ledger.NO_RUN)
    second = log.append(run_id, [Annotated(note="m")], when=exactly(2))
    third = log.append(run_id, [Completed(finished_at=NOON)], when=unless_closed())

    assert ([2, 3, 4], 2) == ([first.version, second.version, third.version], len(first.positions))
    assert ["enqueued", "annotated", "annotated", "completed"] == types(log, run_id)


def test_append_when_refused(log: Ledger) -> None:
    """A refusal says who won, with the event."""
    run_id = running(log)
    winner = log.bind(actor="ann").fail(run_id, error="boom").winner

    with pytest.raises(VersionConflict, match="another writer was first") as conflict:
        log.append(run_id, [Annotated(note="n")], when=exactly(2))
    with pytest.raises(RunClosed, match=r"`failed` by ann at version 3, 2026-03-01T12:00:00\.000000Z") as closed:
        log.append(run_id, [ShardResultAppended(results=[{"status": "passed"}])], when=unless_closed())
    with pytest.raises(RunClosed):
        log.append(run_id, [Completed(finished_at=NOON)])

    assert winner == conflict.value.winner == closed.value.winner
    assert 3 == len(types(log, run_id))


def test_append_when_it_stands_behind_a_fence(log: Ledger) -> None:
    """An append for an older attempt of its shard is refused, with the newest attempt."""
    run_id = running(log, shard_count=1)
    log.retry_shard(run_id, 0)

    with pytest.raises(ShardSuperseded) as refusal:
        log.append(run_id, [Annotated(note="n")], when=unless_closed("shard 0", 1))

    assert ("shard 0", 1, 2) == (refusal.value.fence, refusal.value.attempt, refusal.value.newest_attempt)


def test_append_when_one_of_its_events_is_refused(log: Ledger) -> None:
    """All or nothing: an append with a second terminal event writes none of its events."""
    run_id = running(log)
    log.complete(run_id)

    with pytest.raises(RunClosed):
        log.append(run_id, [Annotated(note="n"), Failed(finished_at=NOON, error="e")])

    assert ["enqueued", "started", "completed"] == types(log, run_id)


def test_append_when_its_ids_are_known(log: Ledger) -> None:
    """The same ids give the first places back."""
    run_id = running(log)
    events, ids = [Annotated(note="n"), Annotated(note="m")], [an_event_id(1), an_event_id(2)]

    first = log.append(run_id, events, event_ids=ids)
    again = log.append(run_id, events, event_ids=ids)

    assert (first.version, list(first.positions)) == (again.version, list(again.positions))
    assert (False, True) == (first.is_duplicate, again.is_duplicate)


def test_resolve_when_it_was_committed_and_when_not(log: Ledger) -> None:
    """An unknown append is found, or appended once, however often it is settled."""
    run_id = running(log)
    request: AppendRequest = log._request(ledger.RunId(run_id), [Annotated(note="n")], exactly(2))
    unknown = OutcomeUnknown(event_ids=[event.event_id for event in request.events], request=request)

    answers = [log.resolve(unknown) for _ in range(3)]

    assert [(3, False), (3, True), (3, True)] == [(it.version, it.is_duplicate) for it in answers]


def test_resolve_when_its_condition_holds_no_more(log: Ledger) -> None:
    """What was not committed and may not be any more is refused for good."""
    run_id = running(log)
    request: AppendRequest = log._request(ledger.RunId(run_id), [Annotated(note="n")], exactly(2))
    log.annotate(run_id, note="first")

    with pytest.raises(VersionConflict):
        log.resolve(OutcomeUnknown(event_ids=[request.events[0].event_id], request=request))


# --- decisions under fire ------------------------------------------------------------------------------------------


def test_decision_when_its_view_is_stale(ledger_url: str, clock: Clock) -> None:
    """A ledger that knew an older state decides on the newest one."""
    if ledger_url == "memory:":
        pytest.skip("no second ledger can open it")
    with ledger.open(ledger_url, migrate=True, clock=clock) as one, ledger.open(ledger_url, clock=clock) as two:
        run_id = running(one, shard_count=2)
        assert Status.RUNNING is two.state(run_id).status
        one.complete_shard(run_id, 0)
        one.fail(run_id, error="boom")

        lost = two.complete(run_id)

        assert (False, "failed") == (lost.won, lost.winner.type if lost.winner else None)
        assert (False, 1) == (two.complete_shard(run_id, 1).advanced, two.complete_shard(run_id, 1).new_value)


def test_unknown_run_when_asked_for(log: Ledger) -> None:
    """An unknown run has no state, and no events."""
    with pytest.raises(RunNotFound) as refusal:
        log.state(UNKNOWN_RUN)

    assert (UNKNOWN_RUN, []) == (refusal.value.run_id, list(log.read(UNKNOWN_RUN)))


def test_abort_when_a_plan_is_as_large_as_it_may_be(log: Ledger) -> None:
    """A run that planned more tests than one event's skips can hold is ended all the same, and counts them all."""
    count = limits.PLANNED_TESTS_MAX
    run = log.enqueue("test", plan=[[f"TC-{number}" for number in range(count)]], worker="w1")
    log.append_results(run.id, [{"testId": "TC-0", "status": "passed"}], shard=0)

    outcome = log.abort(run.id)

    state = log.state(run.id)
    events = list(log.read(run.id))
    skipped = [row["testId"] for event in events if event.type == "shard_result_appended" for row in event.data.results]
    skipped += events[-1].data.skipped and [row["testId"] for row in events[-1].data.skipped]
    assert (True, "aborted") == (outcome.won, outcome.winner.type if outcome.winner else None)
    assert (1, count - 1) == (state.passed, state.skipped)
    assert [f"TC-{number}" for number in range(count)] == skipped


def test_sweep_when_a_plan_is_as_large_as_it_may_be(log: Ledger) -> None:
    """A requested abort that nobody followed ends such a run as well."""
    run = log.enqueue("test", plan=[[f"TC-{number}" for number in range(limits.PLANNED_TESTS_MAX)]], worker="w1")
    log.request_abort(run.id, deadline=NOON)

    [swept] = log.sweep()

    assert "aborted" == swept.events[-1] == log.state(run.id).status
    assert limits.PLANNED_TESTS_MAX == log.state(run.id).skipped
