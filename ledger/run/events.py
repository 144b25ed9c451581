"""Every event of a run: what happened, in the past tense.

A payload carries its type as a tag, so that a stored payload can be read by itself. When a payload must change, the
old struct stays here under its old tag, the new one gets the tag `<type>.<schema version>`, and `UPCASTERS` in
`codec.py` says how old becomes new: old bytes stay readable for ever, and `tests/rules/golden/` has bytes of every one.

Fields with a default are left out of the bytes while they have it, so a new optional field changes no stored event.
"""

from typing import Any, TypeAlias

import msgspec

from ledger.run.values import DEFAULT_POLICY, GateOutcome, JsonObject, Moment, Policy, Status, Verdict


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True, gc=False):
    """Canonical bytes need sorted keys; the encoder sorts them."""


class Enqueued(_Event, frozen=True, tag="enqueued"):
    """A run was asked for. Everything that the folds need of its kind is in here, so none asks a configuration.

    Attributes:
        kind: What kind of work, such as `test` or `script.pull`.
        enqueued_at: When it was asked for.
        project: Whose run it is; keys are apart between projects.
        input: What the run needs to know, without secrets.
        labels: Names and values to find it by.
        shard_count: Into how many slices it is cut; None when it is not.
        total: How many results are expected; None when nobody knows.
        priority: The higher, the sooner it is claimed.
        not_before: When it may start at the earliest; later than `enqueued_at`, the run is scheduled.
        attempts_max: How often it may be started.
        idempotency_key: The same key with the same facts gives the same run.
        exclusive_key: At most one active run holds it.
        phases: The order of its phases, when its kind declares one.
        failed_verdict_fails: Whether completing with a failed verdict fails the run.
        parent_run_id: The run that this one is a part of.
        retry_of: The finished run that this one repeats.
        policy: What happens when its work is lost or fails.
        plan: The ids of the tests of each shard, in order, fixed now: one list a shard. Empty when nobody knows.
        callback_url: Whom to call when the run ends.
    """

    kind: str
    enqueued_at: Moment
    project: str | None = None
    input: JsonObject = {}
    labels: dict[str, str] = {}
    shard_count: int | None = None
    total: int | None = None
    priority: int = 0
    not_before: Moment | None = None
    attempts_max: int = 1
    idempotency_key: str | None = None
    exclusive_key: str | None = None
    phases: list[str] = []
    failed_verdict_fails: bool = False
    parent_run_id: str | None = None
    retry_of: str | None = None
    policy: Policy = DEFAULT_POLICY
    plan: list[list[str]] = []
    callback_url: str | None = None


class Released(_Event, frozen=True, tag="released"):
    """A scheduled run came due, or was promoted."""


class Started(_Event, frozen=True, tag="started"):
    """A worker began an attempt; attempts count from 1.

    Attributes:
        by_shard: Whether workers take the shards one by one; the worker named here took the first. Otherwise the run
            with all its shards is this worker's.
    """

    attempt: int
    started_at: Moment
    worker: str
    by_shard: bool = False


class PhaseEntered(_Event, frozen=True, tag="phase_entered"):
    """The running run entered a phase."""

    phase: str


class VersionResolved(_Event, frozen=True, tag="version_resolved"):
    """The version of what is being built or tested became known."""

    resolved_version: str


class GateFinished(_Event, frozen=True, tag="gate_finished"):
    """A quality gate of the run gave its outcome; the latest of a gate counts."""

    gate: str
    outcome: GateOutcome
    summary: str | None = None
    log_ref: str | None = None


class ShardResultAppended(_Event, frozen=True, tag="shard_result_appended"):
    """Results arrived. They count for their shard's attempt until a newer attempt supersedes it.

    Attributes:
        results: One object a result; `status` is always there.
        shard: Which shard; None for results of no shard, such as tests left out before dispatch.
        first_sequence: Number of the first result within the shard's attempt, from 0; a result whose number was
            already seen does not count again. None: each counts.
    """

    results: list[JsonObject]
    shard: int | None = None
    shard_attempt: int = 1
    first_sequence: int | None = None


class StatsIncremented(_Event, frozen=True, tag="stats_incremented"):
    """Anonymous counters moved. They exist beside the counts of results and, once used, are the run's figures."""

    passed: int = 0
    failed: int = 0
    total: int = 0


class ShardStarted(_Event, frozen=True, tag="shard_started"):
    """A worker took a shard, at the attempt that the shard has come to."""

    shard: int
    started_at: Moment
    worker: str
    shard_attempt: int = 1


class ShardCompleted(_Event, frozen=True, tag="shard_completed"):
    """A shard is done; None is the anonymous counter.

    Attributes:
        exit_code: What its process ended with, where it was one.
        error: Why the shard could not do its work, when all its attempts failed and its siblings go on.
        retry_ended: Why it was not tried once more then.
    """

    shard: int | None = None
    shard_attempt: int = 1
    exit_code: int | None = None
    error: str | None = None
    retry_ended: str | None = None


class ShardRetried(_Event, frozen=True, tag="shard_retried"):
    """A newer attempt of a shard began: what the older ones appended counts no more, and they may not append.

    Attributes:
        retry_at: When it may be taken at the earliest; None is at once.
        is_counted: Whether the attempt before counts against the allowed ones; not when its worker handed it back.
    """

    shard: int
    shard_attempt: int
    reason: str | None = None
    retry_at: Moment | None = None
    is_counted: bool = True


class ArtifactRecorded(_Event, frozen=True, tag="artifact_recorded"):
    """Something that the run made is kept somewhere."""

    name: str
    uri: str
    shard: int | None = None
    media_type: str | None = None
    size_bytes: int | None = None


class DocumentRecorded(_Event, frozen=True, tag="document_recorded"):
    """A document is carried beside the run; the latest of a name counts.

    Attributes:
        name: What it is, such as `promptAudit`.
        document: Any JSON.
    """

    name: str
    document: Any


class LogAppended(_Event, frozen=True, tag="log_appended"):
    """Lines of output, in the order of their source."""

    lines: list[str]
    source: str = "stdout"
    level: str | None = None
    shard: int | None = None


class Annotated(_Event, frozen=True, tag="annotated"):
    """Somebody added a note, or set labels (None takes one away)."""

    note: str | None = None
    labels: dict[str, str | None] = {}


class AttemptFailed(_Event, frozen=True, tag="attempt_failed"):
    """An attempt failed and the run goes back to the queue, or to the schedule until `retry_at`.

    Attributes:
        is_counted: Whether it counts against the allowed attempts; not when its worker handed the run back.
    """

    error: str
    error_category: str | None = None
    retry_at: Moment | None = None
    is_counted: bool = True


class Interrupted(_Event, frozen=True, tag="interrupted"):
    """Nobody works on the run any more: its lease was lost, or its host is gone."""

    reason: str


class Resumed(_Event, frozen=True, tag="resumed"):
    """Somebody took an interrupted run up again, in the same attempt."""

    worker: str


class AbortRequested(_Event, frozen=True, tag="abort_requested"):
    """Somebody asked the run's workers to stop, until the deadline where there is one."""

    reason: str | None = None
    deadline: Moment | None = None


class FinalizationStarted(_Event, frozen=True, tag="finalization_started"):
    """Somebody finalizes the run; a later one of these took over from an earlier."""

    worker: str


class WriteRejected(_Event, frozen=True, tag="write_rejected"):
    """A worker whose lease had gone to another still tried to write; noted once a lease.

    Attributes:
        worker: Who tried.
        token: Of its lease.
        attempted: What it wanted to append.
        shard: Whose lease it was; None is the run's.
    """

    worker: str
    token: int
    attempted: str
    shard: int | None = None


class Completed(_Event, frozen=True, tag="completed"):
    """The run did its work. What its results say is the verdict, not this."""

    finished_at: Moment
    output_ref: str | None = None
    duration_ms: int | None = None


class Failed(_Event, frozen=True, tag="failed"):
    """The run could not do its work.

    Attributes:
        error: What went wrong, its head and tail kept when it was too long.
        error_category: A word for it, for programs.
        failure_summary: The headline.
        retry_ended: Why it was not tried once more, where somebody could have.
    """

    finished_at: Moment
    error: str
    error_category: str | None = None
    failure_summary: str | None = None
    duration_ms: int | None = None
    retry_ended: str | None = None


class Aborted(_Event, frozen=True, tag="aborted"):
    """The run was ended on purpose.

    Attributes:
        mode: `user`, `superseded`, `shutdown`, `deadline` …: why, for programs; `reason` is for people.
        skipped: Results of the tests that never ran, counted with the results of no shard.
    """

    finished_at: Moment
    reason: str | None = None
    mode: str = "user"
    skipped: list[JsonObject] = []
    duration_ms: int | None = None


class Deleted(_Event, frozen=True, tag="deleted"):
    """The run went to the recycle bin."""

    deleted_at: Moment
    reason: str | None = None


class Restored(_Event, frozen=True, tag="restored"):
    """The run came back from the recycle bin."""


class Skeleton(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What stays of a purged run: what lists find it, sort it and count it by.

    No text that anybody wrote about the run is in here, but for the names of its kind and its project.
    """

    kind: str
    status: Status
    deleted_at: Moment
    project: str | None = None
    verdict: Verdict = Verdict.NONE
    attempt: int = 0
    shard_count: int | None = None
    shards_completed: int = 0
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    total: int = 0
    parent_run_id: str | None = None
    retry_of: str | None = None
    created_at: Moment | None = None
    started_at: Moment | None = None
    finished_at: Moment | None = None
    duration_ms: int | None = None
    closed_version: int = 0


class Purged(_Event, frozen=True, tag="purged"):
    """The data of every earlier event of the run was erased. Nothing is added to the run any more.

    Attributes:
        skeleton: What stays: kind, project, status, verdict, times and counts.
        reason: Why; it stays as well.
        is_whole: Whether all of it is erased. A long run is erased bit by bit: it gets one such event when that begins
            and another, whole one when it is done.
    """

    skeleton: Skeleton
    reason: str | None = None
    is_whole: bool = True


RunEvent: TypeAlias = (
    ShardResultAppended
    | LogAppended
    | StatsIncremented
    | ShardCompleted
    | Enqueued
    | Started
    | Completed
    | Failed
    | Aborted
    | PhaseEntered
    | VersionResolved
    | GateFinished
    | ShardStarted
    | ShardRetried
    | ArtifactRecorded
    | DocumentRecorded
    | Annotated
    | Released
    | AttemptFailed
    | Interrupted
    | Resumed
    | AbortRequested
    | FinalizationStarted
    | WriteRejected
    | Deleted
    | Restored
    | Purged
)
"""Every event, the frequent ones first: folds try them in this order."""

EVENT_TYPES: tuple[type[RunEvent], ...] = RunEvent.__args__
TERMINAL_EVENTS = (Completed, Failed, Aborted)


def type_of(event: RunEvent | type[RunEvent]) -> str:
    """Give an event's type: the tag without a schema version."""
    return str(event.__struct_config__.tag).partition(".")[0]


def schema_version_of(event: RunEvent | type[RunEvent]) -> int:
    """Give the schema version of an event's payload, from 1."""
    return int(str(event.__struct_config__.tag).partition(".")[2] or "1")
