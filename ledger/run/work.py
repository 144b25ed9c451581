"""What becomes of leased work: done, failed, handed back, or lost with its worker.

Each decision first asks whether the run is still the lease's (`check_lease`). A shard's lease is the shard's attempt: a
newer attempt is another lease. The lease of a run, or of its finalization, is the version of the event that took it.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from ledger import limits
from ledger.errors import LeaseLost
from ledger.run.commands import (
    Events,
    decide_complete,
    decide_complete_shard,
    decide_fail,
    decide_interrupt,
    has_attempts_left,
)
from ledger.run.events import Aborted, AttemptFailed, Interrupted, ShardCompleted, ShardRetried
from ledger.run.leases import Lease, Purpose
from ledger.run.state import RunState
from ledger.run.values import JsonObject, OnLost, OnShardFailure, Policy, Status, cut


def check_lease(run: RunState, lease: Lease) -> None:
    """Check that a run is still this lease's; a finished one is nobody's, and the commands say so.

    Raises:
        LeaseLost: when somebody else took it, or it was given up.
    """
    if run.closed_version:
        return
    if lease.purpose is Purpose.SHARD:
        shard = None if lease.shard is None else run.shards.get(lease.shard)
        is_held = shard is not None and shard.attempt == lease.token
    elif lease.purpose is Purpose.FINALIZE:
        is_held = run.finalizer_version == lease.token
    else:
        is_held = run.taken_version == lease.token
    if not is_held or run.status is not Status.RUNNING:
        raise LeaseLost(run_id=lease.run_id, shard=lease.shard, worker=lease.worker, token=lease.token)


def retry_at(policy: Policy, *, failures: int, now: datetime, fraction: float) -> datetime | None:
    """Give when to try again: exponential backoff, of which the later half is jitter.

    Args:
        policy: Of the run.
        failures: How many attempts have failed, this one included; at least 1.
        now: The present moment.
        fraction: A random number from 0 to 1.

    Returns:
        None when it may be tried again at once.
    """
    if not policy.retry_delay_s:
        return None
    delay_s = min(policy.retry_delay_max_s, policy.retry_delay_s << min(failures - 1, 32))
    return now + timedelta(seconds=delay_s * (0.5 + fraction / 2))


def decide_succeed(
    run: RunState, lease: Lease, *, finished_at: datetime, output_ref: str | None, exit_code: int | None
) -> Events:
    """Do what was left to do: complete the shard, or the run."""
    check_lease(run, lease)
    if lease.purpose is Purpose.SHARD and lease.shard is not None:
        return decide_complete_shard(run, shard=lease.shard, shard_attempt=lease.token, exit_code=exit_code)
    return decide_complete(run, finished_at=finished_at, output_ref=output_ref, duration_ms=None)


def decide_give_up(
    run: RunState,
    lease: Lease,
    *,
    error: str,
    error_category: str | None,
    is_retryable: bool,
    now: datetime,
    fraction: float,
) -> Events:
    """Fail this attempt: try again later when that may help and attempts are left, else fail for good."""
    check_lease(run, lease)
    final = None if is_retryable else "the error is not one to retry"
    return _failed(run, lease, error, error_category, final=final, now=now, fraction=fraction)


def decide_hand_back(run: RunState, lease: Lease, *, reason: str) -> Events:
    """Give work back undone; it does not count as an attempt. Nothing of it stays."""
    check_lease(run, lease)
    if run.closed_version or lease.purpose is Purpose.FINALIZE:
        return []
    if lease.purpose is Purpose.SHARD and lease.shard is not None:
        return [
            ShardRetried(shard=lease.shard, shard_attempt=lease.token + 1, reason=reason, is_counted=False),
        ]
    return [AttemptFailed(error=reason, error_category="handed_back", is_counted=False)]


def decide_lost(run: RunState, lease: Lease, *, now: datetime, fraction: float) -> Events:
    """Settle a lease whose deadline passed, as the run's kind declares.

    Returns:
        Nothing when the lease was over already, and for a finalizer: somebody else takes over.
    """
    try:
        check_lease(run, lease)
    except LeaseLost:
        return _overtaken(run, lease)
    if run.closed_version or lease.purpose is Purpose.FINALIZE:
        return []
    if run.abort_requested_at is not None:
        return [Aborted(finished_at=now, reason=f"an abort was requested, and {lease.worker} is gone")]
    reason = f"the lease of {lease.worker} ran out"
    final = "work whose worker is lost is not repeated" if run.policy.on_lost is OnLost.FAIL else None
    if lease.purpose is Purpose.SHARD and lease.shard is not None:
        if run.shards[lease.shard].is_completed:
            return []
        if run.policy.on_lost is OnLost.HOLD:
            return decide_interrupt(run, reason=f"{reason} on shard {lease.shard}")
        return _failed(run, lease, reason, "worker_lost", final=final, now=now, fraction=fraction)
    interrupted = Interrupted(reason=reason)
    if run.policy.on_lost is OnLost.HOLD:
        return [interrupted]
    return [interrupted, *_failed(run, lease, reason, "worker_lost", final=final, now=now, fraction=fraction)]


def _overtaken(run: RunState, lease: Lease) -> Events:
    """Let workers take a shard again of whose newest attempt somebody wrote without ever having begun it."""
    shard = None if lease.shard is None else run.shards.get(lease.shard)
    if lease.shard is None or shard is None or shard.is_completed or run.status is not Status.RUNNING:
        return []
    if shard.attempt <= lease.token:
        return []
    reason = f"the lease of {lease.worker} ran out, on attempt {lease.token}"
    return [ShardRetried(shard=lease.shard, shard_attempt=shard.attempt + 1, reason=reason, is_counted=False)]


def decide_overdue_abort(run: RunState, *, now: datetime) -> Events:
    """End a run whose workers were asked to stop and did not by the deadline."""
    if run.closed_version or run.abort_requested_at is None:
        return []
    return [Aborted(finished_at=now, reason="the deadline of the requested abort passed", mode="deadline")]


def _failed(
    run: RunState,
    lease: Lease,
    error: str,
    error_category: str | None,
    *,
    final: str | None,
    now: datetime,
    fraction: float,
) -> Events:
    """Settle failed work; `final` says why it is not tried again even where attempts are left."""
    if lease.purpose is Purpose.SHARD and lease.shard is not None:
        return _shard_failed(run, lease.shard, error, error_category, final=final, now=now, fraction=fraction)
    is_open = not run.closed_version  # of a finished run, the failure below says who finished it
    if lease.purpose is Purpose.RUN and is_open and final is None and has_attempts_left(run):
        again_at = retry_at(run.policy, failures=run.attempt - run.uncounted_attempts, now=now, fraction=fraction)
        shown = cut(error, chars_max=limits.ERROR_CHARS_MAX)
        return [AttemptFailed(error=shown, error_category=error_category, retry_at=again_at)]
    return decide_fail(
        run,
        error=error,
        error_category=error_category,
        failure_summary=None,
        finished_at=now,
        duration_ms=None,
        retry_ended=final or _used_up(run),
    )


def _shard_failed(
    run: RunState,
    number: int,
    error: str,
    error_category: str | None,
    *,
    final: str | None,
    now: datetime,
    fraction: float,
) -> Events:
    if run.closed_version:
        return decide_complete_shard(run, shard=number, shard_attempt=None, exit_code=None)  # says who closed it
    shard = run.shards[number]
    if shard.is_completed:
        return []
    counted = shard.attempt - shard.uncounted
    if final is None and counted < run.attempts_max:
        again_at = retry_at(run.policy, failures=counted, now=now, fraction=fraction)
        reason = cut(error, chars_max=limits.TEXT_CHARS_MAX)
        return [ShardRetried(shard=number, shard_attempt=shard.attempt + 1, reason=reason, retry_at=again_at)]
    if run.policy.on_shard_failure is OnShardFailure.FAIL_FAST:
        return decide_fail(
            run,
            error=f"shard {number}: {error}",
            error_category=error_category,
            failure_summary=None,
            finished_at=now,
            duration_ms=None,
            retry_ended=final or _used_up(run),
        )
    shown = cut(error, chars_max=limits.ERROR_CHARS_MAX)
    return [
        ShardCompleted(shard=number, shard_attempt=shard.attempt, error=shown, retry_ended=final or _used_up(run)),
    ]


def _used_up(run: RunState) -> str:
    return f"all {run.attempts_max} attempt(s) are used up"


def planned_skips(plan: Iterable[Sequence[str]], seen: set[str]) -> list[JsonObject]:
    """Give a skipped result for every planned test that has none, in the order of the plan."""
    return [
        {"testId": test_id, "status": "skipped", "error": "Aborted before execution"}
        for ids in plan
        for test_id in ids
        if test_id not in seen
    ]
