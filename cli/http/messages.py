"""What goes over the wire: the bodies and queries that are taken, and the shapes of what is answered.

The structs of bodies and queries are decoded by them, so what OpenAPI says of a request is what is checked. Answers
are the documents of `cli.documents`, the same as `--json` prints; their structs say their shape.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from cli.documents import event_document
from cli.http import limits as own
from ledger import limits
from ledger.run.codec import RecordedRunEvent
from ledger.run.state import Run
from ledger.run.values import GateOutcome, JsonObject, Moment, Policy, Status, Verdict
from projections.queries import FOUND_MAX
from projections.results import Result, TestSummary

Name = Annotated[str, Meta(min_length=1, max_length=limits.NAME_CHARS_MAX)]
Key = Annotated[str, Meta(min_length=1, max_length=limits.KEY_CHARS_MAX)]
Text = Annotated[str, Meta(min_length=1, max_length=limits.TEXT_CHARS_MAX)]
Long = Annotated[str, Meta(min_length=1, max_length=limits.PAYLOAD_BYTES_MAX)]
Uuid = Annotated[str, Meta(pattern="^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
Count = Annotated[int, Meta(ge=0, le=limits.INTEGER_MAX)]
Delta = Annotated[int, Meta(ge=-limits.INTEGER_MAX, le=limits.INTEGER_MAX)]
ShardNumber = Annotated[int, Meta(ge=0, lt=limits.SHARDS_MAX)]
AttemptNumber = Annotated[int, Meta(ge=1, le=limits.ATTEMPTS_MAX)]
LeaseLength = Annotated[float, Meta(ge=limits.LEASE_S_MIN, le=limits.DELAY_S_MAX)]
Labels = dict[str, str]
ConsumerName = Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=limits.CONSUMER_NAME_CHARS_MAX)]
Partition = Annotated[int, Meta(ge=0, lt=limits.PARTITIONS_MAX)]


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A body or a query: what it does not know it refuses, so that a typo is told."""


class Nothing(Message, frozen=True):
    """Takes nothing."""


# --- bodies -----------------------------------------------------------------------------------------------------


class EnqueueBody(Message, frozen=True):
    """What to run; see `Ledger.enqueue`. The idempotency key is a header."""

    kind: Name
    project: Name | None = None
    input: JsonObject = {}
    labels: Labels = {}
    shard_count: Annotated[int, Meta(ge=1, le=limits.SHARDS_MAX)] | None = None
    total: Count | None = None
    priority: Annotated[int, Meta(ge=-limits.PRIORITY_MAX, le=limits.PRIORITY_MAX)] = 0
    not_before: Moment | None = None
    attempts_max: AttemptNumber | None = None
    exclusive_key: Key | None = None
    on_active: Literal["reject", "return", "supersede"] = "reject"
    parent_run_id: Uuid | None = None
    retry_of: Uuid | None = None
    plan: list[list[str]] = []
    callback_url: Annotated[str, Meta(min_length=1, max_length=limits.URL_CHARS_MAX)] | None = None
    worker: Name | None = None
    run_id: Uuid | None = None


class RetryBody(Message, frozen=True):
    """`shard` repeats only that shard's tests."""

    shard: ShardNumber | None = None
    on_active: Literal["reject", "return", "supersede"] = "reject"


class WorkerBody(Message, frozen=True):
    worker: Name
    event_id: Uuid | None = None


class PhaseBody(Message, frozen=True):
    phase: Name


class VersionBody(Message, frozen=True):
    resolved_version: Name


class GateBody(Message, frozen=True):
    gate: Name
    outcome: GateOutcome
    summary: Text | None = None
    log_ref: Text | None = None


class FailAttemptBody(Message, frozen=True):
    error: Long
    category: Name | None = None
    retry_at: Moment | None = None


class ReasonBody(Message, frozen=True):
    reason: Text


class OptionalReasonBody(Message, frozen=True):
    reason: Text | None = None


class RequestAbortBody(Message, frozen=True):
    reason: Text | None = None
    deadline: Moment | None = None


class CompleteBody(Message, frozen=True):
    output_ref: Text | None = None
    finished_at: Moment | None = None
    duration_ms: Count | None = None
    event_id: Uuid | None = None


class FailBody(Message, frozen=True):
    error: Long
    category: Name | None = None
    failure_summary: Long | None = None
    finished_at: Moment | None = None
    duration_ms: Count | None = None
    event_id: Uuid | None = None


class AbortBody(Message, frozen=True):
    reason: Text | None = None
    mode: Name = "user"
    skipped: list[JsonObject] = []
    finished_at: Moment | None = None
    duration_ms: Count | None = None
    event_id: Uuid | None = None


class PurgeBody(Message, frozen=True):
    reason: Text | None = None
    from_bin: bool = True


class ResultsBody(Message, frozen=True):
    results: list[JsonObject]
    shard: ShardNumber | None = None
    shard_attempt: AttemptNumber = 1
    first_sequence: Count | None = None
    event_id: Uuid | None = None


class StatsBody(Message, frozen=True):
    passed: Delta = 0
    failed: Delta = 0
    total: Delta = 0
    event_id: Uuid | None = None


class LogBody(Message, frozen=True):
    """With an `event_id` the lines are appended once, however often they are sent; they then have to fit one event."""

    lines: list[str]
    source: Name = "stdout"
    level: Name | None = None
    shard: ShardNumber | None = None
    event_id: Uuid | None = None


class ArtifactBody(Message, frozen=True):
    name: Name
    uri: Text
    shard: ShardNumber | None = None
    media_type: Name | None = None
    size_bytes: Count | None = None


class DocumentBody(Message, frozen=True):
    """`document` is any JSON; null says that there is none any more."""

    name: Name
    document: Any
    event_id: Uuid | None = None


class AnnotateBody(Message, frozen=True):
    note: Text | None = None
    labels: dict[str, str | None] = {}


class CompleteShardBody(Message, frozen=True):
    shard_attempt: AttemptNumber | None = None
    exit_code: Delta | None = None


class ClaimBody(Message, frozen=True):
    worker: Name
    kinds: list[Name] | None = None
    limit: Annotated[int, Meta(ge=1, le=limits.TASKS_PER_CLAIM_MAX)] = 1
    lease_s: LeaseLength = limits.LEASE_S


class HeartbeatBody(Message, frozen=True):
    leases: Annotated[list[str], Meta(max_length=limits.LEASES_PER_HEARTBEAT_MAX)]
    lease_s: LeaseLength = limits.LEASE_S


class LookBody(Message, frozen=True):
    leases: Annotated[list[str], Meta(max_length=limits.LEASES_PER_HEARTBEAT_MAX)]


class SucceedBody(Message, frozen=True):
    output_ref: Text | None = None
    exit_code: Delta | None = None
    finished_at: Moment | None = None
    event_id: Uuid | None = None


class GiveUpBody(Message, frozen=True):
    error: Long
    category: Name | None = None
    is_retryable: bool = True
    event_id: Uuid | None = None


class ConsumerBody(Message, frozen=True):
    """What a consumer is; see `Ledger.consumer`. Without projects: all that the token is bound to."""

    name: ConsumerName
    types: list[Name] = []
    kind: Name | None = None
    projects: list[Name] | None = None
    labels: Labels = {}
    partitions: Annotated[int, Meta(ge=1, le=limits.PARTITIONS_MAX)] = 1
    after: Count = 0
    from_now: bool = False


class FetchBody(Message, frozen=True):
    """`wait_s` is how long to wait for a batch."""

    limit: Annotated[int, Meta(ge=1, le=limits.BATCH_EVENTS_MAX)] = limits.BATCH_EVENTS
    lease_s: LeaseLength = limits.LEASE_S
    wait_s: Annotated[float, Meta(ge=0, le=limits.BATCH_WAIT_S_MAX)] = 0.0


class BatchBody(Message, frozen=True):
    """Which batch, as the fetch gave it."""

    partition: Partition
    token: Count
    up_to: Count


class ExtendBody(BatchBody, frozen=True):
    lease_s: LeaseLength = limits.LEASE_S


class ResetBody(Message, frozen=True):
    """`after` is a position; 0 is the whole log again."""

    after: Count = 0
    from_now: bool = False


class SweepBody(Message, frozen=True):
    limit: Annotated[int, Meta(ge=1, le=limits.TASKS_PER_CLAIM_MAX)] = limits.TASKS_PER_CLAIM_MAX


# --- queries ----------------------------------------------------------------------------------------------------

PageSize = Annotated[int, Meta(ge=1, le=own.PAGE_EVENTS_MAX)]


class CountQuery(Message, frozen=True):
    """Which runs; `status` and `label` (as `name=value`) may be given often."""

    project: Name | None = None
    kind: Name | None = None
    status: list[Status] = []
    verdict: Verdict | None = None
    label: list[str] = []
    since: Moment | None = None
    before: Moment | None = None
    parent_run_id: Uuid | None = None
    deleted: Literal["exclude", "only", "include", "purged"] = "exclude"
    at: Moment | None = None


class ListQuery(CountQuery, frozen=True):
    limit: Annotated[int, Meta(ge=1, le=own.PAGE_RUNS_MAX)] = 50
    page_token: Annotated[str, Meta(max_length=512)] | None = None


class FindQuery(Message, frozen=True):
    """`prefix` is how the run ids begin."""

    prefix: Annotated[str, Meta(pattern="^[0-9a-f-]{1,36}$")]
    limit: Annotated[int, Meta(ge=1, le=FOUND_MAX)] = FOUND_MAX
    project: Name | None = None


class RunQuery(Message, frozen=True):
    """As of when; now unless one of them is given."""

    at_version: Annotated[int, Meta(ge=1, le=limits.INTEGER_MAX)] | None = None
    at: Moment | None = None


class HistoryQuery(Message, frozen=True):
    """`after` is a version, exclusive; 0 begins at the first event."""

    after: Count = 0
    limit: PageSize = 100


class CountedQuery(Message, frozen=True):
    """`page_token` is the `next_page_token` of the page before."""

    limit: PageSize = 100
    page_token: str | None = None


class CompareQuery(Message, frozen=True):
    """`newer` is the run that is compared with the one in the path."""

    newer: Uuid


class TestsQuery(Message, frozen=True):
    """Without a project: runs of none. `runs` is how many of the newest are looked at."""

    project: Name | None = None
    since: Moment | None = None
    order: Literal["flaky", "slowest", "failing"] = "flaky"
    limit: PageSize = 50
    runs: Annotated[int, Meta(ge=1, le=limits.RANKED_RUNS_MAX)] = limits.RANKED_RUNS


class TestHistoryQuery(Message, frozen=True):
    """Without a project: runs of any."""

    test_id: Text
    project: Name | None = None
    kind: Name | None = None
    limit: PageSize = 50


class EventsQuery(Message, frozen=True):
    """`after` is a position, exclusive. `type` and `label` may be given often."""

    after: Count = 0
    limit: PageSize = 100
    type: list[Name] = []
    kind: Name | None = None
    project: Name | None = None
    label: list[str] = []


class StreamQuery(Message, frozen=True):
    """`after` is a position, exclusive; without it, and without `Last-Event-ID`, the stream begins now."""

    after: Count | None = None
    type: list[Name] = []
    kind: Name | None = None
    project: Name | None = None
    label: list[str] = []


class RunStreamQuery(Message, frozen=True):
    """`after` is a position, exclusive; without it, and without `Last-Event-ID`, the stream begins with the run."""

    after: Count | None = None
    type: list[Name] = []


class TasksQuery(Message, frozen=True):
    """`after` is the `next_after` of the page before."""

    run_id: Uuid | None = None
    kind: list[Name] = []
    after: Annotated[str, Meta(pattern="^[0-9a-f-]{36}/(-1|[0-9]{1,5})$")] | None = None
    limit: PageSize = 100


# --- answers ----------------------------------------------------------------------------------------------------


class EventAnswer(msgspec.Struct, frozen=True):
    """One event; `data` is null when it was erased."""

    position: int
    version: int
    type: str
    run_id: str
    event_id: str
    schema_version: int
    recorded_at: datetime
    actor: str | None
    correlation_id: str | None
    causation_id: str | None
    traceparent: str | None
    commitment: str
    data: JsonObject | None


def event_answer(event: RecordedRunEvent) -> JsonObject:
    """Give every field of an event, the commitment as well, so that a client can make the event again."""
    document = event_document(event)
    data = document.pop("data")
    return {**document, "commitment": event.envelope.commitment, "data": data}


class EnqueuedAnswer(msgspec.Struct, frozen=True):
    """`is_new` is false when a key led to a run that was there already."""

    run_id: str
    is_new: bool


class ChangedAnswer(msgspec.Struct, frozen=True):
    """`event` is null when the run was as wished already, and nothing was written."""

    run_id: str
    version: int
    event: EventAnswer | None


class AppendedAnswer(msgspec.Struct, frozen=True):
    """How many results or lines were appended; 0 when the run is closed or the shard was handed on."""

    appended: int


class MovedAnswer(msgspec.Struct, frozen=True):
    """1 when the counters moved, else 0."""

    moved: int


class WrittenAnswer(msgspec.Struct, frozen=True):
    event: EventAnswer


class ShardMovedAnswer(msgspec.Struct, frozen=True):
    advanced: bool
    new_value: int


class ShardRetriedAnswer(msgspec.Struct, frozen=True):
    """The number of the new attempt; 0 when the run is closed."""

    attempt: int


class ShardAnswer(msgspec.Struct, frozen=True):
    shard: int
    attempt: int
    is_completed: bool
    exit_code: int | None
    passed: int
    failed: int
    skipped: int
    statuses: dict[str, int]


class GateAnswer(msgspec.Struct, frozen=True):
    gate: str
    outcome: GateOutcome
    summary: str | None
    log_ref: str | None
    version: int


_RUN_FIELDS = [(field.name, field.type) for field in msgspec.structs.fields(Run)]

RunAnswer = msgspec.defstruct("RunAnswer", _RUN_FIELDS)
"""A run as lists show it; every field is there."""

DetailAnswer = msgspec.defstruct(
    "DetailAnswer",
    [
        *_RUN_FIELDS,
        ("input", JsonObject | None),
        ("shards", list[ShardAnswer]),
        ("gates", list[GateAnswer]),
        ("phases", list[str]),
        ("finalizer", str | None),
        ("expected_total", int | None),
    ],
)
"""A run shown by itself."""

RunsAnswer = msgspec.defstruct("RunsAnswer", [("runs", list[RunAnswer]), ("next_page_token", str | None)])  # type: ignore[valid-type]


class CountAnswer(msgspec.Struct, frozen=True):
    count: int


class KindCountEntry(msgspec.Struct, frozen=True):
    kind: str
    status: Status
    count: int


class KindCountsAnswer(msgspec.Struct, frozen=True):
    counts: list[KindCountEntry]


class FoundAnswer(msgspec.Struct, frozen=True):
    """In their order."""

    run_ids: list[str]


class EventsAnswer(msgspec.Struct, frozen=True):
    """`next_after` is what to ask after next time; `more` tells whether that gives something now."""

    events: list[EventAnswer]
    next_after: int
    more: bool


class ResultsEntry(msgspec.Struct, frozen=True):
    version: int
    recorded_at: datetime
    shard: int | None
    shard_attempt: int
    first_sequence: int | None
    results: list[JsonObject]


class ResultsAnswer(msgspec.Struct, frozen=True):
    """Results as they were appended; `next_after` is a version."""

    batches: list[ResultsEntry]
    next_after: int
    more: bool


class CountedAnswer(msgspec.Struct, frozen=True):
    """Results that count: of a shard that was tried anew, the newest attempt's."""

    results: list[Result]
    next_page_token: str | None


class TestsAnswer(msgspec.Struct, frozen=True):
    tests: list[TestSummary]


class TestHistoryAnswer(msgspec.Struct, frozen=True):
    results: list[Result]


class LogLine(msgspec.Struct, frozen=True):
    run_id: str
    version: int
    position: int
    recorded_at: datetime
    shard: int | None
    source: str
    level: str | None
    line: str


class LogAnswer(msgspec.Struct, frozen=True):
    """Lines as they were appended, whole events at a time; `next_after` is a version."""

    lines: list[LogLine]
    next_after: int
    more: bool


class LeaseAnswer(msgspec.Struct, frozen=True):
    """A claim. `lease` goes into the header `Runfold-Lease` of every write under it."""

    lease: str
    run_id: str
    kind: str
    project: str | None
    purpose: str
    shard: int | None
    attempt: int
    token: int
    worker: str
    deadline: datetime
    input: JsonObject
    plan: list[str]
    policy: Policy
    traceparent: str | None
    available_at: datetime | None


class LeasesAnswer(msgspec.Struct, frozen=True):
    leases: list[LeaseAnswer]


class HeartbeatAnswer(msgspec.Struct, frozen=True):
    run_id: str
    shard: int | None
    is_held: bool
    deadline: datetime | None
    abort_requested: bool


class HeartbeatsAnswer(msgspec.Struct, frozen=True):
    """One a lease, in their order."""

    heartbeats: list[HeartbeatAnswer]


class SweptEntry(msgspec.Struct, frozen=True):
    run_id: str
    shard: int | None
    worker: str | None
    events: list[str]


class SweptAnswer(msgspec.Struct, frozen=True):
    swept: list[SweptEntry]


class TaskEntry(msgspec.Struct, frozen=True):
    run_id: str
    kind: str
    project: str | None
    shard: int | None
    purpose: str
    state: str
    priority: int
    attempt: int
    token: int | None
    worker: str | None
    available_at: datetime | None
    deadline: datetime | None
    abort_requested: bool
    is_overdue: bool
    since: datetime
    abort_by: datetime | None


class TasksAnswer(msgspec.Struct, frozen=True):
    tasks: list[TaskEntry]
    next_after: str | None


class LagEntry(msgspec.Struct, frozen=True):
    name: str
    checkpoint: int
    head: int
    events_behind: int
    behind_since: datetime | None


class LagAnswer(msgspec.Struct, frozen=True):
    projections: list[LagEntry]


class PlaceAnswer(msgspec.Struct, frozen=True):
    partition: int
    position: int
    token: int
    lent_up_to: int | None
    left_s: float | None


class ConsumerAnswer(msgspec.Struct, frozen=True):
    """A consumer, and how far it has come."""

    name: str
    types: list[str]
    kind: str | None
    projects: list[str] | None
    labels: Labels
    partitions: int
    created_at: datetime
    position: int
    head: int
    events_behind_max: int
    behind_since: datetime | None
    places: list[PlaceAnswer]


class ConsumersAnswer(msgspec.Struct, frozen=True):
    consumers: list[ConsumerAnswer]


class BatchAnswer(msgspec.Struct, frozen=True):
    partition: int
    token: int
    after: int
    up_to: int


class FetchedAnswer(msgspec.Struct, frozen=True):
    """A batch and its events as CloudEvents, or null and none."""

    batch: BatchAnswer | None
    events: list[JsonObject]


class AcknowledgedAnswer(msgspec.Struct, frozen=True):
    """`moved` is false when the batch had been acknowledged before."""

    moved: bool


class DoneAnswer(msgspec.Struct, frozen=True):
    consumer: str


class HealthAnswer(msgspec.Struct, frozen=True):
    status: Literal["ok"]


class ProblemAnswer(msgspec.Struct, frozen=True):
    """RFC 9457; `code` is stable, and more members follow by its kind."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    run_id: str | msgspec.UnsetType | None = msgspec.UNSET
    winner: EventAnswer | msgspec.UnsetType | None = msgspec.UNSET


Answer = type[Any]
