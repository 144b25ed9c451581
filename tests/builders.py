"""Builders with defaults: events, recorded events and folded runs, made by the real code."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from ledger.events import EventId, NewEvent, RunId, join_page
from ledger.run.codec import NO_CONTEXT, Context, RecordedRunEvent, decode_page, to_new_events
from ledger.run.events import (
    Aborted,
    AbortRequested,
    Annotated,
    ArtifactRecorded,
    AttemptFailed,
    Completed,
    Deleted,
    DocumentRecorded,
    Enqueued,
    Failed,
    FinalizationStarted,
    GateFinished,
    Interrupted,
    LogAppended,
    PhaseEntered,
    Purged,
    Released,
    Restored,
    Resumed,
    RunEvent,
    ShardCompleted,
    ShardResultAppended,
    ShardRetried,
    ShardStarted,
    Skeleton,
    Started,
    StatsIncremented,
    VersionResolved,
    WriteRejected,
)
from ledger.run.state import RunState, fold, initial
from ledger.run.values import GateOutcome, JsonObject, OnLost, OnShardFailure, Policy, Status, Verdict

NOON = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)
RUN = RunId("0192f3a0-0000-7000-8000-000000000001")
OTHER_RUN = RunId("0192f3a0-0000-7000-8000-000000000002")
UNKNOWN_RUN = RunId("0192f3a0-0000-7000-8000-00000000ffff")


def an_event_id(number: int) -> EventId:
    return EventId(f"0192f3a0-0000-7000-9000-{number:012x}")


def a_run_id(number: int) -> RunId:
    return RunId(f"0192f3a0-0000-7000-8000-{number:012x}")


def enqueued(**facts: Any) -> Enqueued:
    return Enqueued(**{"kind": "test", "enqueued_at": NOON, **facts})


def started(attempt: int = 1, worker: str = "w1") -> Started:
    return Started(attempt=attempt, started_at=NOON, worker=worker)


def results(*statuses: str, **facts: Any) -> ShardResultAppended:
    return ShardResultAppended(results=[{"status": status} for status in statuses], **facts)


def a_result(number: int = 1, status: str = "passed", **facts: Any) -> JsonObject:
    return {"testId": f"TC-{number}", "status": status, **facts}


COMPLETED = Completed(finished_at=LATER)
FAILED = Failed(finished_at=LATER, error="boom")
ABORTED = Aborted(finished_at=LATER, reason="enough")

PATHS: dict[Status, list[RunEvent]] = {
    Status.SCHEDULED: [],
    Status.QUEUED: [],
    Status.RUNNING: [started()],
    Status.INTERRUPTED: [started(), Interrupted(reason="lease lost")],
    Status.COMPLETED: [started(), COMPLETED],
    Status.FAILED: [started(), FAILED],
    Status.ABORTED: [started(), ABORTED],
}
"""The shortest way from `enqueued` to each status."""


def new_events(
    events: Sequence[RunEvent],
    *,
    run_id: RunId = RUN,
    first_id: int = 1,
    at: datetime = NOON,
    context: Context = NO_CONTEXT,
) -> tuple[NewEvent, ...]:
    """Make events ready to be stored, with ids that count up and one salt."""
    count = len(events)
    return to_new_events(
        events,
        run_id=run_id,
        recorded_at=at,
        event_ids=[an_event_id(first_id + index) for index in range(count)],
        salts=[bytes(32)] * count,
        context=context,
    )


def recorded(events: Sequence[RunEvent], *, after: int = 0, at: datetime = NOON) -> list[RecordedRunEvent]:
    """Give events as they stand in the log, after a version, through their stored bytes."""
    rows = [
        (version, version, event.envelope, event.payload)
        for version, event in enumerate(new_events(events, first_id=after + 1, at=at), after + 1)
    ]
    return decode_page(join_page(rows))


def after(run: RunState, *events: RunEvent, at: datetime = NOON) -> RunState:
    """Fold more events into a run."""
    return fold(run, recorded(events, after=run.version, at=at))


def a_run(status: Status = Status.QUEUED, *, then: Iterable[RunEvent] = (), **facts: Any) -> RunState:
    """Fold a run that came to a status the shortest way.

    Args:
        status: Where it stands.
        then: More events after that.
        facts: Of its `enqueued` event.
    """
    if status is Status.SCHEDULED:
        facts = {"not_before": LATER, **facts}
    return after(initial(RUN), enqueued(**facts), *PATHS[status], *then)


FULL: dict[str, RunEvent] = {
    "enqueued": Enqueued(
        kind="test",
        enqueued_at=NOON,
        project="web",
        input={
            "suite": "smoke",
            "retries": 2,
            "ratio": 0.25,
            "tags": ["ä", "😀", None, True],
            "nested": {"b": 1, "a": 2},
        },
        labels={"branch": "main", "os": "linux"},
        shard_count=4,
        total=100,
        priority=-5,
        not_before=LATER,
        attempts_max=3,
        idempotency_key="delivery-1",
        exclusive_key="main@web",
        phases=["build", "test"],
        failed_verdict_fails=True,
        parent_run_id=OTHER_RUN,
        retry_of=OTHER_RUN,
        policy=Policy(
            on_lost=OnLost.HOLD,
            on_shard_failure=OnShardFailure.ALL_DONE,
            retry_delay_s=5,
            retry_delay_max_s=60,
            timeout_s=900,
        ),
        plan=[["TC-1", "ä"], [], ["TC-2"], ["TC-3"]],
        callback_url="https://ci.example/hooks?run=1",
    ),
    "released": Released(),
    "started": Started(attempt=2, started_at=NOON + timedelta(microseconds=250), worker="host-1/4711", by_shard=True),
    "phase_entered": PhaseEntered(phase="build"),
    "version_resolved": VersionResolved(resolved_version="v1.2.3+build.4"),
    "gate_finished": GateFinished(
        gate="coverage", outcome=GateOutcome.FAILED, summary="71 % < 80 %", log_ref="s3://b/l"
    ),
    "shard_result_appended": ShardResultAppended(
        results=[
            {"testId": "TC-1", "status": "passed", "durationMs": 12.5},
            {"status": "failed", "error": 'expected "ä"\n\tgot \\', "testId": "TC-2"},
        ],
        shard=3,
        shard_attempt=2,
        first_sequence=40,
    ),
    "stats_incremented": StatsIncremented(passed=3, failed=1, total=-1),
    "shard_completed": ShardCompleted(
        shard=3, shard_attempt=2, exit_code=-9, error="killed", retry_ended="all 3 attempt(s) are used up"
    ),
    "shard_started": ShardStarted(shard=3, shard_attempt=2, started_at=NOON, worker="host-1/7"),
    "shard_retried": ShardRetried(shard=3, shard_attempt=2, reason="lease lost", retry_at=LATER, is_counted=False),
    "artifact_recorded": ArtifactRecorded(
        name="trace", uri="s3://bucket/trace.zip", shard=1, media_type="application/zip", size_bytes=2**53 - 1
    ),
    "document_recorded": DocumentRecorded(
        name="promptAudit", document={"tokens": 1_200, "prompts": ["ä", None, 0.5], "nested": {"b": [], "a": {}}}
    ),
    "log_appended": LogAppended(lines=["first", "", "\x1b[31mred"], source="stderr", level="error", shard=0),
    "annotated": Annotated(note="flaky", labels={"owner": "team-a", "gone": None}),
    "attempt_failed": AttemptFailed(error="out of memory", error_category="oom", retry_at=LATER, is_counted=False),
    "interrupted": Interrupted(reason="host gone"),
    "resumed": Resumed(worker="host-2/1"),
    "abort_requested": AbortRequested(reason="wrong branch", deadline=LATER),
    "finalization_started": FinalizationStarted(worker="host-2/1"),
    "write_rejected": WriteRejected(worker="host-1/7", token=12, attempted="completed", shard=3),
    "completed": Completed(finished_at=LATER, output_ref="s3://bucket/report", duration_ms=3_600_000),
    "failed": Failed(
        finished_at=LATER,
        error="line one\nline two",
        error_category="crash",
        failure_summary="coverage: 71 % < 80 %",
        duration_ms=1,
        retry_ended="all 3 attempt(s) are used up",
    ),
    "aborted": Aborted(
        finished_at=LATER,
        reason="superseded",
        mode="superseded",
        skipped=[{"status": "skipped", "testId": "TC-9"}],
        duration_ms=0,
    ),
    "deleted": Deleted(deleted_at=LATER, reason="old"),
    "restored": Restored(),
    "purged": Purged(
        skeleton=Skeleton(
            kind="test",
            status=Status.FAILED,
            deleted_at=LATER,
            project="web",
            verdict=Verdict.FAILED,
            attempt=2,
            shard_count=4,
            shards_completed=3,
            passed=90,
            failed=2,
            skipped=8,
            total=100,
            parent_run_id=OTHER_RUN,
            retry_of=OTHER_RUN,
            created_at=NOON,
            started_at=NOON,
            finished_at=LATER,
            duration_ms=3_600_000,
            closed_version=17,
        ),
        reason="retention",
        is_whole=False,
    ),
}
"""One event of every type with every field set."""

BARE: dict[str, RunEvent] = {
    "enqueued": enqueued(),
    "released": Released(),
    "started": started(),
    "phase_entered": PhaseEntered(phase="build"),
    "version_resolved": VersionResolved(resolved_version="1"),
    "gate_finished": GateFinished(gate="lint", outcome=GateOutcome.PASSED),
    "shard_result_appended": results("passed"),
    "stats_incremented": StatsIncremented(),
    "shard_completed": ShardCompleted(),
    "shard_started": ShardStarted(shard=0, started_at=NOON, worker="w1"),
    "shard_retried": ShardRetried(shard=0, shard_attempt=2),
    "artifact_recorded": ArtifactRecorded(name="log", uri="file:///tmp/log"),
    "document_recorded": DocumentRecorded(name="githubCheck", document=None),
    "log_appended": LogAppended(lines=["ready"]),
    "annotated": Annotated(),
    "attempt_failed": AttemptFailed(error="boom"),
    "interrupted": Interrupted(reason="host gone"),
    "resumed": Resumed(worker="w1"),
    "abort_requested": AbortRequested(),
    "finalization_started": FinalizationStarted(worker="w1"),
    "write_rejected": WriteRejected(worker="w1", token=2, attempted="completed"),
    "completed": COMPLETED,
    "failed": FAILED,
    "aborted": Aborted(finished_at=LATER),
    "deleted": Deleted(deleted_at=LATER),
    "restored": Restored(),
    "purged": Purged(skeleton=Skeleton(kind="test", status=Status.COMPLETED, deleted_at=LATER)),
}
"""One event of every type with nothing but what it must have."""
