"""Runfold's writing side: the log of events, and the rules of a run.

import ledger

with ledger.open("sqlite:///runs.db") as log:
    run = log.enqueue("test", project="web", shard_count=4)
"""

from ledger.api import Ledger, Outcome, RunHandle, ShardOutcome
from ledger.errors import (
    EventIdReused,
    ExclusiveKeyTaken,
    IdempotencyMismatch,
    IllegalTransition,
    InvalidInput,
    InvariantBroken,
    LedgerError,
    OutcomeUnknown,
    Refused,
    RunClosed,
    RunNotFound,
    RunTaken,
    SchemaMismatch,
    SecretInInput,
    ShardSuperseded,
    StoreBusy,
    StoreUnavailable,
    UnsafeStore,
    VersionConflict,
)
from ledger.events import EventId, RecordedEvent, RunId
from ledger.opening import open
from ledger.run.profiles import Kind
from ledger.run.state import Run, RunState
from ledger.run.values import Status, Verdict
from ledger.store import ANY, EXISTS, NO_RUN, Appended, Condition, exactly, unless_closed
from ledger.subscription import Subscription

__all__ = [
    "ANY",
    "EXISTS",
    "NO_RUN",
    "Appended",
    "Condition",
    "EventId",
    "EventIdReused",
    "ExclusiveKeyTaken",
    "IdempotencyMismatch",
    "IllegalTransition",
    "InvalidInput",
    "InvariantBroken",
    "Kind",
    "Ledger",
    "LedgerError",
    "Outcome",
    "OutcomeUnknown",
    "RecordedEvent",
    "Refused",
    "Run",
    "RunClosed",
    "RunHandle",
    "RunId",
    "RunNotFound",
    "RunState",
    "RunTaken",
    "SchemaMismatch",
    "SecretInInput",
    "ShardOutcome",
    "ShardSuperseded",
    "Status",
    "StoreBusy",
    "StoreUnavailable",
    "Subscription",
    "UnsafeStore",
    "Verdict",
    "VersionConflict",
    "exactly",
    "open",
    "unless_closed",
]
