"""What may happen to a run: every decision, accepted and refused."""

import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from builders import LATER, NOON, RUN, a_run, after, results

from ledger import limits
from ledger.errors import IllegalTransition, InvalidInput, RunClosed, RunNotFound, RunPurged, RunTaken
from ledger.run import commands
from ledger.run.events import (
    Aborted,
    AbortRequested,
    AttemptFailed,
    Completed,
    Deleted,
    Enqueued,
    Failed,
    FinalizationStarted,
    GateFinished,
    Interrupted,
    PhaseEntered,
    Purged,
    Released,
    Restored,
    Resumed,
    RunEvent,
    ShardCompleted,
    ShardRetried,
    Started,
    VersionResolved,
)
from ledger.run.profiles import Kind
from ledger.run.state import RunState, initial
from ledger.run.values import GateOutcome, Status, Verdict

NOW = NOON

ASKED: dict[str, Any] = {
    "kind": Kind(name="test"),
    "project": None,
    "input": {},
    "labels": None,
    "shard_count": None,
    "total": None,
    "priority": 0,
    "not_before": None,
    "attempts_max": None,
    "idempotency_key": None,
    "exclusive_key": None,
    "parent_run_id": None,
    "retry_of": None,
    "now": NOW,
}


def start(run: RunState, worker: str = "w1") -> list[RunEvent]:
    return commands.decide_start(run, worker=worker, now=NOW)


def complete(run: RunState) -> list[RunEvent]:
    return commands.decide_complete(run, finished_at=LATER, output_ref=None, duration_ms=None)


def fail(run: RunState, error: str = "boom", *, summary: str | None = None) -> list[RunEvent]:
    return commands.decide_fail(
        run, error=error, error_category=None, failure_summary=summary, finished_at=LATER, duration_ms=None
    )


def abort(run: RunState) -> list[RunEvent]:
    return commands.decide_abort(run, reason="no", mode="user", skipped=[], finished_at=LATER, duration_ms=None)


def finish_gate(run: RunState) -> list[RunEvent]:
    return commands.decide_finish_gate(run, gate="lint", outcome=GateOutcome.PASSED, summary=None, log_ref=None)


def complete_shard(run: RunState, shard: int = 0, attempt: int | None = None) -> list[RunEvent]:
    return commands.decide_complete_shard(run, shard=shard, shard_attempt=attempt, exit_code=None)


def retry_shard(run: RunState, shard: int = 0) -> list[RunEvent]:
    return commands.decide_retry_shard(run, shard=shard, reason=None)


def fail_attempt(run: RunState) -> list[RunEvent]:
    return commands.decide_fail_attempt(run, error="boom", error_category=None, retry_at=None)


COMMANDS: dict[str, Callable[[RunState], list[RunEvent]]] = {
    "release": commands.decide_release,
    "start": lambda run: start(run, "w2"),
    "enter_phase": lambda run: commands.decide_enter_phase(run, phase="build"),
    "resolve_version": lambda run: commands.decide_resolve_version(run, resolved_version="1.2"),
    "finish_gate": finish_gate,
    "complete_shard": complete_shard,
    "complete_any_shard": commands.decide_complete_any_shard,
    "retry_shard": retry_shard,
    "fail_attempt": fail_attempt,
    "interrupt": lambda run: commands.decide_interrupt(run, reason="gone"),
    "resume": lambda run: commands.decide_resume(run, worker="w2"),
    "request_abort": lambda run: commands.decide_request_abort(run, reason=None, deadline=None),
    "start_finalization": lambda run: commands.decide_start_finalization(run, worker="w2"),
    "complete": complete,
    "fail": fail,
    "abort": abort,
    "delete": lambda run: commands.decide_delete(run, reason=None, now=NOW),
    "restore": commands.decide_restore,
    "purge": lambda run: commands.decide_purge(run, reason=None, from_bin=False, is_whole=True, now=LATER),
}

S, Q, R, X = Status.SCHEDULED, Status.QUEUED, Status.RUNNING, Status.INTERRUPTED
ACTIVE = (S, Q, R, X)
TERMINAL = (Status.COMPLETED, Status.FAILED, Status.ABORTED)

Answer = type[RunEvent] | type[Exception] | None
RULES: dict[str, dict[Status, Answer]] = {
    "release": {S: Released, Q: None, R: IllegalTransition, X: IllegalTransition},
    "start": {S: IllegalTransition, Q: Started, R: RunTaken, X: IllegalTransition},
    "enter_phase": {S: IllegalTransition, Q: IllegalTransition, R: PhaseEntered, X: IllegalTransition},
    "resolve_version": {S: IllegalTransition, Q: IllegalTransition, R: VersionResolved, X: IllegalTransition},
    "finish_gate": {S: IllegalTransition, Q: IllegalTransition, R: GateFinished, X: IllegalTransition},
    "complete_shard": dict.fromkeys(ACTIVE, ShardCompleted),
    "complete_any_shard": dict.fromkeys(ACTIVE, ShardCompleted),
    "retry_shard": dict.fromkeys(ACTIVE, ShardRetried),
    "fail_attempt": {S: IllegalTransition, Q: IllegalTransition, R: AttemptFailed, X: AttemptFailed},
    "interrupt": {S: IllegalTransition, Q: IllegalTransition, R: Interrupted, X: None},
    "resume": {S: IllegalTransition, Q: IllegalTransition, R: RunTaken, X: Resumed},
    "request_abort": dict.fromkeys(ACTIVE, AbortRequested),
    "start_finalization": {S: IllegalTransition, Q: IllegalTransition, R: FinalizationStarted, X: IllegalTransition},
    "complete": {S: IllegalTransition, Q: IllegalTransition, R: Completed, X: IllegalTransition},
    "fail": dict.fromkeys(ACTIVE, Failed),
    "abort": dict.fromkeys(ACTIVE, Aborted),
    "delete": {**dict.fromkeys(ACTIVE, IllegalTransition), **dict.fromkeys(TERMINAL, Deleted)},
    "restore": dict.fromkeys((*ACTIVE, *TERMINAL)),
    "purge": {**dict.fromkeys(ACTIVE, IllegalTransition), **dict.fromkeys(TERMINAL, Purged)},
}
"""What every command answers in every status: an event, nothing, or a refusal. Terminal ones not named: `RunClosed`."""


def answer(command: str, run: RunState) -> Answer:
    try:
        events = COMMANDS[command](run)
    except (IllegalTransition, RunClosed, RunNotFound, RunTaken) as refusal:
        return type(refusal)
    return type(events[0]) if events else None


@pytest.mark.parametrize("command", RULES)
def test_command_in_every_status(command: str) -> None:
    """A command is accepted, changes nothing or is refused, as the table of rules says."""
    runs = {status: a_run(status, attempts_max=2) for status in Status}

    answers = {status: answer(command, run) for status, run in runs.items()}

    assert {**dict.fromkeys(TERMINAL, RunClosed), **RULES[command]} == answers


@pytest.mark.parametrize("command", RULES)
def test_command_when_run_is_unknown(command: str) -> None:
    """Nothing can be decided about a run that was never enqueued."""
    unknown = initial(RUN)

    with pytest.raises(RunNotFound) as refusal:
        COMMANDS[command](unknown)

    assert RUN == refusal.value.run_id


def test_rules_when_a_command_is_added() -> None:
    """The table above knows every decision there is."""
    decisions = {name.removeprefix("decide_") for name, _ in inspect.getmembers(commands, inspect.isfunction)
                 if name.startswith("decide_")}  # fmt: skip

    assert decisions - {"enqueue", "enqueue_again"} == set(RULES)


@pytest.mark.parametrize("status", Status)
def test_every_command_when_its_event_is_folded(status: Status) -> None:
    """What a command decides on can be decided again right after, without a second terminal event."""
    run = a_run(status, attempts_max=2)

    for command in COMMANDS.values():
        try:
            folded = after(run, *command(run))
        except (IllegalTransition, RunClosed, RunTaken):
            continue
        assert (folded.closed_version > 0) == folded.is_terminal
        assert not run.closed_version or run.closed_version == folded.closed_version


def test_illegal_transition_when_shown() -> None:
    """A refusal says what was asked, where the run stands, and what next."""
    run = a_run(Status.QUEUED)

    with pytest.raises(IllegalTransition) as refusal:
        complete(run)

    assert (
        f"complete: run {RUN} is queued: a run that is queued does not allow it. Read the run again and decide anew."
        == str(refusal.value)
    )
    assert (RUN, "queued", "complete") == (refusal.value.run_id, refusal.value.status, refusal.value.command)


# --- enqueue ----------------------------------------------------------------------------------------------------


def test_enqueue_when_nothing_is_declared() -> None:
    """A run of an undeclared kind takes the defaults."""
    event = commands.decide_enqueue(**ASKED)

    assert Enqueued(kind="test", enqueued_at=NOW) == event


def test_enqueue_when_its_kind_declares() -> None:
    """What the kind declares goes into the event, so that no fold asks a configuration."""
    kind = Kind(name="build", phases=("compile", "link"), failed_verdict_fails=True, attempts_max=3)

    event = commands.decide_enqueue(**{**ASKED, "kind": kind})

    assert (["compile", "link"], True, 3) == (event.phases, event.failed_verdict_fails, event.attempts_max)


def test_enqueue_when_the_caller_says_otherwise() -> None:
    """The caller's number of attempts goes before the kind's."""
    event = commands.decide_enqueue(**{**ASKED, "kind": Kind(name="build", attempts_max=3), "attempts_max": 5})

    assert 5 == event.attempts_max


def test_enqueue_when_labels_come_in_any_order() -> None:
    """Labels are kept in the order of their names, so that the same labels are the same bytes."""
    event = commands.decide_enqueue(**{**ASKED, "labels": {"b": "2", "a": "1"}})

    assert ["a", "b"] == list(event.labels)


def test_enqueue_when_not_before_has_another_zone() -> None:
    """Moments are kept in UTC."""
    elsewhere = LATER.astimezone(None)

    event = commands.decide_enqueue(**{**ASKED, "not_before": elsewhere})

    assert event.not_before is not None
    assert (LATER, timedelta(0)) == (event.not_before, event.not_before.utcoffset())


# --- start and resume -------------------------------------------------------------------------------------------


def test_start_when_this_worker_has_it() -> None:
    """A worker that lost the answer asks again, and no second attempt is counted."""
    run = a_run(Status.RUNNING)

    assert [] == start(run, "w1")


def test_start_when_another_worker_has_it() -> None:
    """The refusal names the worker that was first, and when."""
    run = a_run(Status.RUNNING)

    with pytest.raises(RunTaken) as refusal:
        start(run, "w2")

    assert ("w1", 2) == (refusal.value.worker, refusal.value.taken_version)


def test_start_when_scheduled_and_due() -> None:
    """A due run is released and started at once."""
    run = a_run(Status.SCHEDULED)

    events = commands.decide_start(run, worker="w1", now=LATER)

    assert [Released(), Started(attempt=1, started_at=LATER, worker="w1")] == events


def test_start_when_scheduled_and_a_microsecond_early() -> None:
    """A run does not start before its time."""
    run = a_run(Status.SCHEDULED)

    with pytest.raises(IllegalTransition):
        commands.decide_start(run, worker="w1", now=LATER - timedelta(microseconds=1))


def test_start_when_an_attempt_is_left() -> None:
    """The next attempt has the next number."""
    run = a_run(Status.RUNNING, then=[AttemptFailed(error="boom")], attempts_max=2)

    assert [Started(attempt=2, started_at=NOW, worker="w2")] == start(run, "w2")


def test_start_when_attempts_are_used_up() -> None:
    """No attempt is begun past the limit, and the refusal says so."""
    run = a_run(Status.RUNNING, then=[AttemptFailed(error="boom")], attempts_max=1)

    with pytest.raises(IllegalTransition, match=r"all 1 attempt\(s\) are used up"):
        start(run)


def test_resume_when_this_worker_has_it() -> None:
    """Resuming what one already runs changes nothing."""
    run = a_run(Status.RUNNING)

    assert [] == commands.decide_resume(run, worker="w1")


# --- phases, versions, gates ------------------------------------------------------------------------------------


def test_enter_phase_when_already_in_it() -> None:
    """Entering the present phase again changes nothing."""
    run = a_run(Status.RUNNING, then=[PhaseEntered(phase="test")])

    assert [] == commands.decide_enter_phase(run, phase="test")


def test_enter_phase_when_it_skips_one() -> None:
    """A phase may be left out."""
    run = a_run(Status.RUNNING, phases=["build", "test", "deploy"], then=[PhaseEntered(phase="build")])

    assert [PhaseEntered(phase="deploy")] == commands.decide_enter_phase(run, phase="deploy")


def test_enter_phase_when_it_goes_back() -> None:
    """Declared phases are entered in their order only."""
    run = a_run(Status.RUNNING, phases=["build", "test"], then=[PhaseEntered(phase="test")])

    with pytest.raises(IllegalTransition, match="phase build comes before test"):
        commands.decide_enter_phase(run, phase="build")


def test_enter_phase_when_undeclared() -> None:
    """A kind that declares its phases has no others, and the error lists them."""
    run = a_run(Status.RUNNING, phases=["build", "test"])

    with pytest.raises(InvalidInput, match="'depoly' is none of the kind's phases: build, test"):
        commands.decide_enter_phase(run, phase="depoly")


def test_enter_phase_when_none_are_declared() -> None:
    """Without a declared order any phase may follow any other."""
    run = a_run(Status.RUNNING, then=[PhaseEntered(phase="z")])

    assert [PhaseEntered(phase="a")] == commands.decide_enter_phase(run, phase="a")


def test_resolve_version_when_it_is_known() -> None:
    """The same version again changes nothing; another one is recorded."""
    run = a_run(Status.RUNNING, then=[VersionResolved(resolved_version="1")])

    assert [] == commands.decide_resolve_version(run, resolved_version="1")
    assert [VersionResolved(resolved_version="2")] == commands.decide_resolve_version(run, resolved_version="2")


# --- shards -----------------------------------------------------------------------------------------------------


def test_complete_shard_when_completed() -> None:
    """A shard counts once."""
    run = a_run(Status.RUNNING, shard_count=2, then=[ShardCompleted(shard=1)])

    assert [] == complete_shard(run, 1)
    assert [ShardCompleted(shard=0)] == complete_shard(run, 0)


def test_complete_shard_when_a_newer_attempt_began() -> None:
    """An older attempt cannot complete a shard that was handed on."""
    run = a_run(Status.RUNNING, shard_count=2, then=[ShardRetried(shard=1, shard_attempt=2)])

    with pytest.raises(IllegalTransition, match="shard 1 is at attempt 2, and you finished attempt 1"):
        complete_shard(run, 1, attempt=1)

    assert [ShardCompleted(shard=1, shard_attempt=2)] == complete_shard(run, 1, attempt=2)
    assert [ShardCompleted(shard=1, shard_attempt=2)] == complete_shard(run, 1)


def test_complete_shard_when_completed_before_its_retry() -> None:
    """A retried shard has to be completed again."""
    then = [ShardCompleted(shard=0), ShardRetried(shard=0, shard_attempt=2)]
    run = a_run(Status.RUNNING, shard_count=1, then=then)

    assert [ShardCompleted(shard=0, shard_attempt=2)] == complete_shard(run, 0)


@pytest.mark.parametrize(("shard_count", "last"), [(None, 0), (1, 0), (4, 3)])
def test_complete_shard_at_the_last_and_past_it(shard_count: int | None, last: int) -> None:
    """A run has as many shards as it was cut into; one that is not cut has shard 0."""
    run = a_run(Status.RUNNING, shard_count=shard_count)

    assert [ShardCompleted(shard=last)] == complete_shard(run, last)
    with pytest.raises(InvalidInput, match=f"{last + 1} is no shard of run"):
        complete_shard(run, last + 1)


@pytest.mark.parametrize(("shard_count", "cap"), [(None, 1), (3, 3)])
def test_complete_any_shard_at_the_cap_and_past_it(shard_count: int | None, cap: int) -> None:
    """The anonymous counter moves up to the number of shards and no further."""
    run = a_run(Status.RUNNING, shard_count=shard_count, then=[ShardCompleted()] * (cap - 1))

    assert [ShardCompleted()] == commands.decide_complete_any_shard(run)
    assert [] == commands.decide_complete_any_shard(after(run, ShardCompleted()))


def test_retry_shard_when_retried_before() -> None:
    """Attempts of a shard count up."""
    run = a_run(Status.RUNNING, shard_count=2, then=[ShardRetried(shard=1, shard_attempt=2)])

    assert [ShardRetried(shard=1, shard_attempt=3)] == retry_shard(run, 1)
    assert [ShardRetried(shard=0, shard_attempt=2)] == retry_shard(run, 0)


def test_retry_shard_at_the_limit_of_attempts() -> None:
    """A shard has a limit of attempts, and one more is refused."""
    most = limits.ATTEMPTS_MAX
    last_but_one = a_run(Status.RUNNING, then=[ShardRetried(shard=0, shard_attempt=most - 1)])
    last = a_run(Status.RUNNING, then=[ShardRetried(shard=0, shard_attempt=most)])

    assert [ShardRetried(shard=0, shard_attempt=most)] == retry_shard(last_but_one)
    with pytest.raises(InvalidInput, match="1,000 are allowed"):
        retry_shard(last)


# --- attempts ---------------------------------------------------------------------------------------------------


def test_fail_attempt_when_it_was_the_last() -> None:
    """The last attempt cannot fail alone; the refusal says what to do instead."""
    run = a_run(Status.RUNNING, attempts_max=1)

    with pytest.raises(IllegalTransition, match="attempt 1 of 1 was the last; fail the run"):
        fail_attempt(run)


def test_fail_attempt_when_the_error_is_long() -> None:
    """An error is cut to its limit, head and tail kept."""
    run = a_run(Status.RUNNING, attempts_max=2)
    error = "H" + "x" * limits.ERROR_CHARS_MAX + "T"

    [event] = commands.decide_fail_attempt(run, error=error, error_category=None, retry_at=None)

    assert isinstance(event, AttemptFailed)
    assert (limits.ERROR_CHARS_MAX, "H", "T") == (len(event.error), event.error[0], event.error[-1])


# --- the end ----------------------------------------------------------------------------------------------------


def test_complete_when_the_verdict_is_failed() -> None:
    """A run completes whatever its tests say; the verdict tells."""
    run = a_run(Status.RUNNING, then=[results("failed")])

    assert (Verdict.FAILED, [Completed(finished_at=LATER)]) == (run.verdict, complete(run))


@pytest.mark.parametrize(
    ("then", "headline"),
    [
        ([results("passed", "failed", "failed")], "2 of 3 results failed"),
        ([GateFinished(gate="lint", outcome=GateOutcome.FAILED, summary="3 errors")], "lint: 3 errors"),
        ([GateFinished(gate="lint", outcome=GateOutcome.FAILED)], "lint: gate failed"),
        ([GateFinished(gate="lint", outcome=GateOutcome.BLOCKED)], "verdict blocked"),
    ],
)
def test_complete_when_a_failed_verdict_fails_the_kind(then: list[RunEvent], headline: str) -> None:
    """A kind may let a failed or blocked verdict fail the run, with the headline as its error."""
    run = a_run(Status.RUNNING, failed_verdict_fails=True, then=then)

    assert [Failed(finished_at=LATER, error=headline, error_category="verdict", failure_summary=headline)] == complete(
        run
    )


@pytest.mark.parametrize("then", [[], [results("passed", "skipped")]])
def test_complete_when_the_verdict_does_not_fail_the_kind(then: list[RunEvent]) -> None:
    """Such a kind completes when nothing is red."""
    run = a_run(Status.RUNNING, failed_verdict_fails=True, then=then)

    assert [Completed(finished_at=LATER)] == complete(run)


@pytest.mark.parametrize("command", ["complete", "fail", "abort"])
@pytest.mark.parametrize("first", TERMINAL)
def test_end_when_ended(command: str, first: Status) -> None:
    """A second terminal event is refused, and the refusal names the version that won."""
    run = a_run(first)

    with pytest.raises(RunClosed) as refusal:
        COMMANDS[command](run)

    assert 3 == refusal.value.closed_version


def test_fail_when_a_gate_is_red() -> None:
    """The headline is the earliest red gate's, not the error's."""
    gates = [
        GateFinished(gate="lint", outcome=GateOutcome.FAILED, summary="3 errors"),
        GateFinished(gate="coverage", outcome=GateOutcome.FAILED, summary="71 %"),
    ]
    run = a_run(Status.RUNNING, then=gates)

    [event] = fail(run, "exit code 1")

    assert isinstance(event, Failed)
    assert ("exit code 1", "lint: 3 errors") == (event.error, event.failure_summary)


def test_fail_when_the_red_gate_was_run_again() -> None:
    """A gate that passed in the end is no reason."""
    gates = [
        GateFinished(gate="lint", outcome=GateOutcome.FAILED),
        GateFinished(gate="lint", outcome=GateOutcome.PASSED),
    ]
    run = a_run(Status.RUNNING, then=gates)

    [event] = fail(run, "exit code 1")

    assert isinstance(event, Failed)
    assert "exit code 1" == event.failure_summary


def test_fail_when_the_error_has_lines() -> None:
    """Without gates and results the headline is the error's first line."""
    run = a_run(Status.RUNNING)

    [event] = fail(run, "\n  boom: it broke\nTraceback\n")

    assert isinstance(event, Failed)
    assert "boom: it broke" == event.failure_summary


@pytest.mark.parametrize("extra", [0, 1])
def test_fail_at_the_limits_of_its_texts(extra: int) -> None:
    """Error and headline are kept whole at their limits and cut past them."""
    error = "e" * (limits.ERROR_CHARS_MAX + extra)
    summary = "s" * (limits.FAILURE_SUMMARY_CHARS_MAX + extra)

    [event] = fail(a_run(Status.RUNNING), error, summary=summary)

    assert isinstance(event, Failed)
    assert "s" * limits.FAILURE_SUMMARY_CHARS_MAX == event.failure_summary
    assert limits.ERROR_CHARS_MAX == len(event.error)
    assert (extra == 0) == (error == event.error)


def test_abort_when_results_never_came() -> None:
    """Tests that never ran are part of the abort."""
    skipped = [{"status": "skipped", "testId": "TC-1"}]
    run = a_run(Status.RUNNING)

    events = commands.decide_abort(run, reason=None, mode="user", skipped=skipped, finished_at=LATER, duration_ms=7)

    assert [Aborted(finished_at=LATER, skipped=skipped, duration_ms=7)] == events


def test_request_abort_when_requested() -> None:
    """Asking to stop a second time changes nothing."""
    run = a_run(Status.RUNNING, then=[AbortRequested()])

    assert [] == commands.decide_request_abort(run, reason="again", deadline=None)


def test_start_finalization_when_the_finalizer_died() -> None:
    """The same finalizer goes on; another one takes over."""
    run = a_run(Status.RUNNING, then=[FinalizationStarted(worker="w1")])

    assert [] == commands.decide_start_finalization(run, worker="w1")
    assert [FinalizationStarted(worker="w2")] == commands.decide_start_finalization(run, worker="w2")


def test_delete_and_restore_when_done() -> None:
    """Deleting what is deleted, and restoring what is not, change nothing."""
    kept = a_run(Status.COMPLETED)
    deleted = after(kept, Deleted(deleted_at=NOW))

    assert [] == commands.decide_delete(deleted, reason=None, now=LATER)
    assert [Restored()] == commands.decide_restore(deleted)
    assert [] == commands.decide_restore(kept)


def purge(run: RunState, *, is_whole: bool = True, from_bin: bool = True) -> list[RunEvent]:
    return commands.decide_purge(run, reason="old", from_bin=from_bin, is_whole=is_whole, now=LATER)


def test_purge_when_the_run_is_not_in_the_bin() -> None:
    """Only a run in the bin is purged, unless any finished one may be; then it is gone from lists as well."""
    kept = a_run(Status.COMPLETED)

    with pytest.raises(IllegalTransition, match="delete it first"):
        purge(kept)
    [purged] = purge(kept, from_bin=False)
    [from_bin] = purge(after(kept, Deleted(deleted_at=NOW)))

    assert (LATER, NOW) == (purged.skeleton.deleted_at, from_bin.skeleton.deleted_at)  # type: ignore[union-attr]


def test_purge_when_it_takes_several_steps() -> None:
    """The first step says that a purge has begun, the last that it is done; nothing is said in between, or later."""
    deleted = a_run(Status.FAILED, then=[Deleted(deleted_at=NOW)])
    [begun] = purge(deleted, is_whole=False)
    erasing = after(deleted, begun)
    [done] = purge(erasing)
    purged = after(erasing, done)

    assert [[], [], []] == [purge(erasing, is_whole=False), purge(purged), purge(purged, is_whole=False)]
    assert (False, True, True) == (begun.is_whole, done.is_whole, begun.skeleton == done.skeleton)  # type: ignore[union-attr]
    assert (None, NOON) == (erasing.purged_at, purged.purged_at)
    assert [4, 5, 5] == [commands.erasable_version(run) for run in (deleted, erasing, purged)]
    for run in (erasing, purged):
        with pytest.raises(RunPurged):
            commands.decide_restore(run)


def test_decisions_when_made_twice() -> None:
    """A decision leaves its run alone: the same question has the same answer."""
    run = a_run(Status.RUNNING, shard_count=2, then=[results("passed", shard=1)])
    before = a_run(Status.RUNNING, shard_count=2, then=[results("passed", shard=1)])

    first = {name: answer(name, run) for name in COMMANDS}

    assert first == {name: answer(name, run) for name in COMMANDS}
    assert before == run
