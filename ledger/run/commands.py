"""What may happen to a run: one `decide_…` a command, from the folded state to the events, or a refusal.

The rules, in one place:
- a terminal run stays as it is: `RunClosed`, which names the version that won;
- everything else that does not fit the status is `IllegalTransition`;
- asking again for what is already so gives no event.

Appends that commute (results, stats, logs, artifacts, annotations) need no decision: the store refuses them when the
run is closed, and nothing else does.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from ledger import limits
from ledger.errors import IllegalTransition, InvalidInput, RunClosed, RunNotFound, RunPurged, RunTaken
from ledger.run.codec import encode_json
from ledger.run.credentials import refuse_secrets
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
    ShardResultAppended,
    ShardRetried,
    Started,
    VersionResolved,
)
from ledger.run.profiles import Kind
from ledger.run.state import RunState, failure_headline, skeleton
from ledger.run.values import (
    GateOutcome,
    JsonObject,
    OnLost,
    OnShardFailure,
    Policy,
    Status,
    Verdict,
    check_callback_url,
    check_flag,
    check_integer,
    check_json,
    check_labels,
    check_optional_text,
    check_text,
    check_time,
    check_uuid,
    cut,
)

Events = list[RunEvent]


def decide_enqueue(
    *,
    kind: Kind,
    project: str | None,
    input: JsonObject,
    labels: Mapping[str, str] | None,
    shard_count: int | None,
    total: int | None,
    priority: int,
    not_before: datetime | None,
    attempts_max: int | None,
    idempotency_key: str | None,
    exclusive_key: str | None,
    parent_run_id: str | None,
    retry_of: str | None,
    now: datetime,
    plan: Sequence[Sequence[str]] = (),
    callback_url: str | None = None,
) -> Enqueued:
    """Ask for a run: check every fact of it, and put what its kind declares beside them.

    Raises:
        InvalidInput: when a fact cannot be stored, or is out of its limits.
        SecretInInput: when the input holds what looks like a credential.
    """
    if not isinstance(input, dict):
        raise InvalidInput("input", f"is {type(input).__name__}; an object is needed.")
    check_json(input, field="input")
    refuse_secrets(input, field="input")
    size_bytes = len(encode_json(input))
    if size_bytes > limits.INPUT_BYTES_MAX:
        raise InvalidInput(
            "input", f"has {size_bytes:,} bytes; {limits.INPUT_BYTES_MAX:,} are allowed. Pass a reference."
        )
    name, key = limits.NAME_CHARS_MAX, limits.KEY_CHARS_MAX
    attempts = kind.attempts_max if attempts_max is None else attempts_max
    if shard_count is not None:
        check_integer(shard_count, field="shard_count", at_least=1, at_most=limits.SHARDS_MAX)
    if total is not None:
        check_integer(total, field="total", at_least=0)
    for field, run_id in (("parent_run_id", parent_run_id), ("retry_of", retry_of)):
        if run_id is not None:
            check_uuid(run_id, field=field)
    return Enqueued(
        kind=check_text(kind.name, field="kind", chars_max=name),
        enqueued_at=now,
        project=check_optional_text(project, field="project", chars_max=name),
        input=input,
        labels=check_labels(labels),
        shard_count=shard_count,
        total=total,
        priority=check_integer(priority, field="priority", at_least=-limits.PRIORITY_MAX, at_most=limits.PRIORITY_MAX),
        not_before=None if not_before is None else check_time(not_before, field="not_before"),
        attempts_max=check_integer(attempts, field="attempts_max", at_least=1, at_most=limits.ATTEMPTS_MAX),
        idempotency_key=check_optional_text(idempotency_key, field="idempotency_key", chars_max=key),
        exclusive_key=check_optional_text(exclusive_key, field="exclusive_key", chars_max=key),
        phases=_phases(kind.phases),
        failed_verdict_fails=check_flag(kind.failed_verdict_fails, field="failed_verdict_fails"),
        parent_run_id=parent_run_id,
        retry_of=retry_of,
        policy=check_policy(kind.policy),
        plan=check_plan(plan, shard_count=shard_count),
        callback_url=_callback_url(callback_url),
    )


def _callback_url(url: str | None) -> str | None:
    if url is not None:
        refuse_secrets(check_callback_url(url, field="callback_url"), field="callback_url")
    return url


def decide_enqueue_again(
    run: RunState,
    asked: Enqueued | None,
    *,
    tests: Sequence[str] | None,
    idempotency_key: str | None,
    now: datetime,
) -> Enqueued:
    """Ask for a finished run once more.

    Args:
        run: The finished run.
        asked: Its first event; None when that is erased.
        tests: The ids of one shard's tests, when only that shard is wanted.
        idempotency_key: Of the new run.
        now: When it was asked for.

    Raises:
        IllegalTransition: when it is not finished.
        RunPurged: when what it was asked to do is erased.
        InvalidInput: when only a shard is wanted, and it had no tests that anybody knows of.
    """
    if not run.is_terminal:
        why = "only a finished run can be repeated; abort it, or wait for its end"
        raise IllegalTransition(run_id=run.run_id, status=run.status, command="retry", why=why)
    if asked is None:
        raise RunPurged(run_id=run.run_id)
    event = msgspec.structs.replace(
        asked,
        enqueued_at=now,
        not_before=None,
        idempotency_key=check_optional_text(idempotency_key, field="idempotency_key", chars_max=limits.KEY_CHARS_MAX),
        retry_of=run.run_id,
    )
    if tests is None:
        return event
    if run.shard_count is None:
        raise InvalidInput("shard", "is given, and the run is not cut. Repeat all of it.")
    if not tests:
        raise InvalidInput("shard", "had no tests: none were planned for it, and it has no results. Repeat the run.")
    return msgspec.structs.replace(
        event,
        shard_count=None,
        plan=check_plan([tests], shard_count=None),
        total=None if asked.total is None else len(tests),
    )


def check_enqueued(event: Enqueued) -> None:
    """Check an `enqueued` event that no command made, by the command that would have made it.

    What stands in it becomes columns and keys of tables, which hold less on one database than on the other.

    Raises:
        InvalidInput, SecretInInput: as `decide_enqueue` does.
    """
    decide_enqueue(
        kind=Kind(
            name=event.kind,
            phases=event.phases,  # type: ignore[arg-type]
            failed_verdict_fails=event.failed_verdict_fails,
            policy=event.policy,
        ),
        project=event.project,
        input=event.input,
        labels=event.labels,
        shard_count=event.shard_count,
        total=event.total,
        priority=event.priority,
        not_before=event.not_before,
        attempts_max=event.attempts_max,
        idempotency_key=event.idempotency_key,
        exclusive_key=event.exclusive_key,
        parent_run_id=event.parent_run_id,
        retry_of=event.retry_of,
        now=event.enqueued_at,
        plan=event.plan,
        callback_url=event.callback_url,
    )


def check_policy(policy: Policy) -> Policy:
    """Check what a kind declares for work that is lost or fails.

    Raises:
        InvalidInput: when it is no policy, or a delay is out of range.
    """
    if not isinstance(policy, Policy):
        raise InvalidInput("policy", f"is {type(policy).__name__}; a Policy is needed.")
    if policy.on_lost not in tuple(OnLost):
        raise InvalidInput("policy.on_lost", f"is {policy.on_lost!r}; {', '.join(OnLost)} is allowed.")
    if policy.on_shard_failure not in tuple(OnShardFailure):
        raise InvalidInput(
            "policy.on_shard_failure", f"is {policy.on_shard_failure!r}; {', '.join(OnShardFailure)} is allowed."
        )
    for field, seconds in (("retry_delay_s", policy.retry_delay_s), ("retry_delay_max_s", policy.retry_delay_max_s)):
        check_integer(seconds, field=f"policy.{field}", at_least=0, at_most=limits.DELAY_S_MAX)
    if policy.timeout_s is not None:
        check_integer(policy.timeout_s, field="policy.timeout_s", at_least=1, at_most=limits.DELAY_S_MAX)
    return policy


def check_plan(plan: Sequence[Sequence[str]], *, shard_count: int | None) -> list[list[str]]:
    """Check which tests each shard is to run.

    Raises:
        InvalidInput: when it is no list of lists of ids, has other shards than the run, or too many tests.
    """
    if isinstance(plan, str | bytes) or not isinstance(plan, Sequence):
        raise InvalidInput("plan", f"is {type(plan).__name__}; a list with the ids of each shard's tests is needed.")
    if plan and len(plan) != (shard_count or 1):
        raise InvalidInput("plan", f"has {len(plan):,} lists, and the run has {shard_count or 1:,} shard(s).")
    count = 0
    for shard, ids in enumerate(plan):
        if isinstance(ids, str | bytes) or not isinstance(ids, Sequence):
            raise InvalidInput(f"plan[{shard}]", f"is {type(ids).__name__}; a list of test ids is needed.")
        count += len(ids)
        if count > limits.PLANNED_TESTS_MAX:
            raise InvalidInput("plan", f"has more than {limits.PLANNED_TESTS_MAX:,} tests.")
        for index, test_id in enumerate(ids):
            check_text(test_id, field=f"plan[{shard}][{index}]", chars_max=limits.TEXT_CHARS_MAX)
    return [list(ids) for ids in plan]


def _phases(phases: Sequence[str]) -> list[str]:
    if isinstance(phases, str) or not isinstance(phases, Sequence):
        raise InvalidInput("phases", f"is {type(phases).__name__}; a list of names is needed.")
    if len(phases) > limits.PHASES_MAX:
        raise InvalidInput("phases", f"has {len(phases):,} phases; {limits.PHASES_MAX} are allowed.")
    for index, phase in enumerate(phases):
        check_text(phase, field=f"phases[{index}]", chars_max=limits.NAME_CHARS_MAX)
    return list(phases)


def decide_release(run: RunState) -> Events:
    """Let a scheduled run be picked up, because it came due or somebody promotes it."""
    _require(run, "release", Status.SCHEDULED, Status.QUEUED)
    return [Released()] if run.status is Status.SCHEDULED else []


def decide_start(run: RunState, *, worker: str, now: datetime) -> Events:
    """Begin an attempt for one worker.

    Args:
        run: The run folded up to the version the caller will expect.
        worker: Who works on it from now on.
        now: When the worker asked, UTC; stored as told, never used for ordering.

    Returns:
        One `Started`, or nothing if this worker already runs this attempt.

    Raises:
        RunClosed: when the run is finished.
        RunTaken: when another worker was first.
        IllegalTransition: when it is neither queued nor scheduled and due, or has no attempt left.
    """
    _require_open(run)
    if run.status is Status.RUNNING and run.worker == worker:
        return []  # A worker that lost our answer asks again; a second event would count as a second attempt.
    _require_free(run)
    is_due = run.status is Status.SCHEDULED and run.not_before is not None and run.not_before <= now
    if not is_due:
        _require(run, "start", Status.QUEUED)
    if not has_attempts_left(run):
        raise IllegalTransition(
            run_id=run.run_id,
            status=run.status,
            command="start",
            why=f"all {run.attempts_max} attempt(s) are used up",
        )
    started = Started(attempt=run.attempt + 1, started_at=now, worker=worker)
    return [Released(), started] if is_due else [started]


def decide_enter_phase(run: RunState, *, phase: str) -> Events:
    """Enter a phase of the running run.

    Raises:
        InvalidInput: when the kind declares its phases and this is none of them.
        IllegalTransition: when the phase comes before the present one in the declared order.
    """
    _require(run, "enter_phase", Status.RUNNING)
    if phase == run.phase:
        return []
    if run.phases:
        if phase not in run.phases:
            raise InvalidInput("phase", f"{phase!r} is none of the kind's phases: {', '.join(run.phases)}.")
        if run.phase is not None and run.phases.index(phase) < run.phases.index(run.phase):
            raise IllegalTransition(
                run_id=run.run_id,
                status=run.status,
                command="enter_phase",
                why=f"phase {phase} comes before {run.phase}",
            )
    return [PhaseEntered(phase=phase)]


def decide_resolve_version(run: RunState, *, resolved_version: str) -> Events:
    """Record the version of what the run builds or tests."""
    _require(run, "resolve_version", Status.RUNNING)
    return [] if run.resolved_version == resolved_version else [VersionResolved(resolved_version=resolved_version)]


def decide_finish_gate(
    run: RunState, *, gate: str, outcome: GateOutcome, summary: str | None, log_ref: str | None
) -> Events:
    """Record a gate's outcome; a later one of the same gate replaces it."""
    _require(run, "finish_gate", Status.RUNNING)
    return [GateFinished(gate=gate, outcome=outcome, summary=summary, log_ref=log_ref)]


def decide_complete_shard(run: RunState, *, shard: int, shard_attempt: int | None, exit_code: int | None) -> Events:
    """Complete a shard once; doing it again changes nothing.

    Raises:
        InvalidInput: when the run has no such shard.
        IllegalTransition: when a newer attempt of the shard has begun.
    """
    _require_open(run)
    check_shard(run, shard)
    known = run.shards.get(shard)
    newest = 1 if known is None else known.attempt
    attempt = newest if shard_attempt is None else shard_attempt
    if attempt < newest:
        raise IllegalTransition(
            run_id=run.run_id,
            status=run.status,
            command="complete_shard",
            why=f"shard {shard} is at attempt {newest}, and you finished attempt {attempt}",
        )
    if known is not None and known.is_completed and attempt == newest:
        return []
    return [ShardCompleted(shard=shard, shard_attempt=attempt, exit_code=exit_code)]


def decide_complete_any_shard(run: RunState) -> Events:
    """Move the anonymous counter of completed shards by one, never past the number of shards."""
    _require_open(run)
    return [ShardCompleted()] if run.shards_completed < run.shards_cap else []


def decide_retry_shard(run: RunState, *, shard: int, reason: str | None) -> Events:
    """Begin a newer attempt of one shard; its siblings keep their results."""
    _require_open(run)
    check_shard(run, shard)
    known = run.shards.get(shard)
    newest = 1 if known is None else known.attempt
    if newest >= limits.ATTEMPTS_MAX:
        raise InvalidInput("shard", f"{shard} had {newest:,} attempts; {limits.ATTEMPTS_MAX:,} are allowed.")
    return [ShardRetried(shard=shard, shard_attempt=newest + 1, reason=reason)]


def decide_fail_attempt(run: RunState, *, error: str, error_category: str | None, retry_at: datetime | None) -> Events:
    """End the present attempt without ending the run: back to the queue, or to the schedule.

    Raises:
        IllegalTransition: when no attempt is left; fail the run instead.
    """
    _require(run, "fail_attempt", Status.RUNNING, Status.INTERRUPTED)
    if not has_attempts_left(run):
        raise IllegalTransition(
            run_id=run.run_id,
            status=run.status,
            command="fail_attempt",
            why=f"attempt {run.attempt} of {run.attempts_max} was the last; fail the run",
        )
    shown = cut(error, chars_max=limits.ERROR_CHARS_MAX)
    return [
        *_taken_back(run, reason=error),
        AttemptFailed(error=shown, error_category=error_category, retry_at=retry_at),
    ]


def has_attempts_left(run: RunState) -> bool:
    """Tell whether a run may be started once more."""
    return run.attempt - run.uncounted_attempts < run.attempts_max


def decide_interrupt(run: RunState, *, reason: str) -> Events:
    """Note that nobody works on a running run any more."""
    _require(run, "interrupt", Status.RUNNING, Status.INTERRUPTED)
    return [*_taken_back(run, reason=reason), Interrupted(reason=reason)] if run.status is Status.RUNNING else []


def _taken_back(run: RunState, *, reason: str) -> Events:
    """Take from workers the shards that they hold: a newer attempt of each, and none of the allowed ones is used up.

    The lease of a shard is the shard's attempt: whoever held it and lives on could else write again, as the holder
    that it looks like, once the run goes on.
    """
    shown = cut(reason, chars_max=limits.TEXT_CHARS_MAX)
    return [
        ShardRetried(shard=number, shard_attempt=shard.attempt + 1, reason=shown, is_counted=False)
        for number, shard in run.shards.items()
        if shard.worker is not None and not shard.is_completed
    ]


def decide_resume(run: RunState, *, worker: str) -> Events:
    """Take an interrupted run up again."""
    _require_open(run)
    if run.status is Status.RUNNING and run.worker == worker:
        return []
    _require_free(run)
    _require(run, "resume", Status.INTERRUPTED)
    return [Resumed(worker=worker)]


def decide_request_abort(run: RunState, *, reason: str | None, deadline: datetime | None) -> Events:
    """Ask the workers of a run to stop; asking again changes nothing."""
    _require_open(run)
    return [AbortRequested(reason=reason, deadline=deadline)] if run.abort_requested_at is None else []


def decide_start_finalization(run: RunState, *, worker: str) -> Events:
    """Let one worker finalize the run, or take over from one that died."""
    _require(run, "start_finalization", Status.RUNNING)
    return [FinalizationStarted(worker=worker)] if run.finalizer != worker else []


def decide_complete(run: RunState, *, finished_at: datetime, output_ref: str | None, duration_ms: int | None) -> Events:
    """Finish a running run.

    Returns:
        `Completed`; or `Failed` with the headline when the kind lets a failed verdict fail the run, or a shard could
        not do its work and the kind does not tolerate that.

    Raises:
        RunClosed: when the run is finished already.
        IllegalTransition: when it does not run.
    """
    _require(run, "complete", Status.RUNNING)
    fails = run.failed_verdict_fails and run.verdict is not Verdict.PASSED and run.verdict is not Verdict.NONE
    if fails or (run.failed_shards and run.policy.on_shard_failure is not OnShardFailure.TOLERATE):
        headline = cut(failure_headline(run) or f"verdict {run.verdict}", chars_max=limits.FAILURE_SUMMARY_CHARS_MAX)
        return [
            Failed(
                finished_at=finished_at,
                error=headline,
                error_category="verdict" if fails else "shard_failed",
                failure_summary=headline,
                duration_ms=duration_ms,
            )
        ]
    return [Completed(finished_at=finished_at, output_ref=output_ref, duration_ms=duration_ms)]


def decide_fail(
    run: RunState,
    *,
    error: str,
    error_category: str | None,
    failure_summary: str | None,
    finished_at: datetime,
    duration_ms: int | None,
    retry_ended: str | None = None,
) -> Events:
    """Fail a run that is not finished. The error and its headline are cut to their limits."""
    _require_open(run)
    headline = failure_summary or failure_headline(run) or error.strip().partition("\n")[0]
    return [
        Failed(
            finished_at=finished_at,
            error=cut(error, chars_max=limits.ERROR_CHARS_MAX),
            error_category=error_category,
            failure_summary=headline[: limits.FAILURE_SUMMARY_CHARS_MAX] or None,
            duration_ms=duration_ms,
            retry_ended=retry_ended,
        )
    ]


def decide_abort(
    run: RunState,
    *,
    reason: str | None,
    mode: str,
    skipped: list[JsonObject],
    finished_at: datetime,
    duration_ms: int | None,
) -> Events:
    """End a run that is not finished, on purpose."""
    _require_open(run)
    return within_limits(
        Aborted(finished_at=finished_at, reason=reason, mode=mode, skipped=skipped, duration_ms=duration_ms)
    )


def within_limits(event: Aborted) -> Events:
    """Give the events that hold an abort: skipped tests that one event cannot hold stand in results just before it.

    A run may plan more tests than their skips fit into an event; it must be possible to end it all the same.
    """
    parts: list[list[JsonObject]] = [[]]
    room_bytes = limits.PAYLOAD_BYTES_MAX // 2
    for result in event.skipped:
        size_bytes = len(encode_json(result)) + 1
        if parts[-1] and (room_bytes < size_bytes or len(parts[-1]) == limits.RESULTS_PER_EVENT_MAX):
            parts.append([])
            room_bytes = limits.PAYLOAD_BYTES_MAX // 2
        parts[-1].append(result)
        room_bytes -= size_bytes
    before: Events = [ShardResultAppended(results=part) for part in parts[:-1]]
    return [*before, msgspec.structs.replace(event, skipped=parts[-1])]


def decide_delete(run: RunState, *, reason: str | None, now: datetime) -> Events:
    """Put a run into the recycle bin; active runs are aborted first."""
    _require_known(run)
    if not run.is_terminal:
        raise IllegalTransition(
            run_id=run.run_id,
            status=run.status,
            command="delete",
            why="an active run cannot go to the bin; abort it",
        )
    return [] if run.deleted_at is not None else [Deleted(deleted_at=now, reason=reason)]


def decide_restore(run: RunState) -> Events:
    """Take a run out of the recycle bin.

    Raises:
        RunPurged: when its data is erased, or is being erased.
    """
    _require_known(run)
    if run.purged_version:
        raise RunPurged(run_id=run.run_id, purged_version=run.purged_version)
    return [] if run.deleted_at is None else [Restored()]


def decide_purge(run: RunState, *, reason: str | None, from_bin: bool, is_whole: bool, now: datetime) -> Events:
    """Say that a run's data is erased, and what stays of it.

    Args:
        run: The run.
        reason: Why; it stays.
        from_bin: Whether only a run in the recycle bin may be purged.
        is_whole: Whether everything up to the run's version is erased together with this.
        now: When a run that is in no bin is gone from lists.

    Raises:
        IllegalTransition: when the run is active, or is not in the bin.
    """
    require_purgeable(run, from_bin=from_bin)
    if run.purged_version == run.version and (run.purged_at is not None or not is_whole):
        return []
    return [Purged(skeleton=skeleton(run, deleted_at=now), reason=reason, is_whole=is_whole)]


def require_purgeable(run: RunState, *, from_bin: bool) -> None:
    """Check that a run may be purged; see `decide_purge`."""
    _require_known(run)
    why = ""
    if not run.is_terminal:
        why = "an active run is never purged; abort it"
    elif from_bin and run.deleted_at is None:
        why = "it is not in the recycle bin; delete it first"
    if why:
        raise IllegalTransition(run_id=run.run_id, status=run.status, command="purge", why=why)


def erasable_version(run: RunState) -> int:
    """Give the version up to which a purge of the run erases: all there is, but for the event that says so."""
    is_done = run.purged_at is not None and run.purged_version == run.version
    return run.version - 1 if is_done else run.version


def check_shard(run: RunState, shard: int) -> None:
    """Check that a run has a shard of that number.

    Raises:
        InvalidInput: when it has not.
    """
    if not 0 <= shard < run.shards_cap:
        shards = (
            "is not cut into shards: only shard 0"
            if run.shard_count is None
            else f"has shards 0 to {run.shards_cap - 1}"
        )
        raise InvalidInput("shard", f"{shard} is no shard of run {run.run_id}, which {shards}.")


def _require_known(run: RunState) -> None:
    if run.version == 0:
        raise RunNotFound(run.run_id)


def _require_open(run: RunState) -> None:
    _require_known(run)
    if run.closed_version:
        raise RunClosed(run_id=run.run_id, closed_version=run.closed_version)


def _require_free(run: RunState) -> None:
    if run.status is Status.RUNNING:
        raise RunTaken(run_id=run.run_id, worker=run.worker, taken_version=run.taken_version)


def _require(run: RunState, command: str, *statuses: Status) -> None:
    _require_open(run)
    if run.status not in statuses:
        raise IllegalTransition(run_id=run.run_id, status=run.status, command=command)
