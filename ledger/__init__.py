"""Runfold's writing side: the log of events, and the rules of a run.

import ledger

with ledger.open("sqlite:///runs.db") as log:
    run = log.enqueue("test", project="web", shard_count=4)
"""

from ledger.api import Ledger, Outcome, RunHandle, ShardOutcome
from ledger.consumer import Consumer, ConsumerStatus
from ledger.consumers import Batch, ConsumerSettings
from ledger.errors import (
    BatchLost,
    ConsumerDiffers,
    ConsumerNotFound,
    EventIdReused,
    ExclusiveKeyTaken,
    IdempotencyMismatch,
    IllegalTransition,
    InvalidInput,
    InvariantBroken,
    LeaseLost,
    LedgerError,
    NotPermitted,
    OutcomeUnknown,
    Refused,
    RunClosed,
    RunNotFound,
    RunPurged,
    RunTaken,
    SchemaMismatch,
    SecretInInput,
    ShardSuperseded,
    StoreBusy,
    StoreReadOnly,
    StoreUnavailable,
    UnsafeStore,
    VersionConflict,
)
from ledger.events import EventId, RecordedEvent, RunId
from ledger.opening import open
from ledger.queue import Heartbeat, Swept
from ledger.run.leases import Lease, Purpose
from ledger.run.profiles import Kind
from ledger.run.state import Run, RunState
from ledger.run.values import Policy, Status, Verdict
from ledger.store import ANY, EXISTS, NO_RUN, Appended, Condition, exactly, unless_closed
from ledger.stuck import StuckTask
from ledger.subscription import Subscription
from ledger.tasks import Task

__all__ = [
    "ANY",
    "EXISTS",
    "NO_RUN",
    "Appended",
    "Batch",
    "BatchLost",
    "Condition",
    "Consumer",
    "ConsumerDiffers",
    "ConsumerNotFound",
    "ConsumerSettings",
    "ConsumerStatus",
    "EventId",
    "EventIdReused",
    "ExclusiveKeyTaken",
    "Heartbeat",
    "IdempotencyMismatch",
    "IllegalTransition",
    "InvalidInput",
    "InvariantBroken",
    "Kind",
    "Lease",
    "LeaseLost",
    "Ledger",
    "LedgerError",
    "NotPermitted",
    "Outcome",
    "OutcomeUnknown",
    "Policy",
    "Purpose",
    "RecordedEvent",
    "Refused",
    "Run",
    "RunClosed",
    "RunHandle",
    "RunId",
    "RunNotFound",
    "RunPurged",
    "RunState",
    "RunTaken",
    "SchemaMismatch",
    "SecretInInput",
    "ShardOutcome",
    "ShardSuperseded",
    "Status",
    "StoreBusy",
    "StoreReadOnly",
    "StoreUnavailable",
    "StuckTask",
    "Subscription",
    "Swept",
    "Task",
    "UnsafeStore",
    "Verdict",
    "VersionConflict",
    "exactly",
    "open",
    "unless_closed",
]
