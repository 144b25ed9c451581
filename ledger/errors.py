"""Every error that the ledger raises.

Each message says what happened (with the values), why, and what to do next; the values are fields as well. None of
them knows an HTTP status or an exit code: those tables live with the entry points.

    LedgerError
    ├── InvalidInput              a value cannot be stored; nothing was written
    │   └── SecretInInput         a credential stands in `input`
    ├── RunNotFound
    ├── IllegalTransition         the rules of a run forbid it
    ├── Refused                   another writer was first; carries who
    │   ├── VersionConflict
    │   ├── RunClosed
    │   ├── RunTaken
    │   ├── ShardSuperseded
    │   ├── LeaseLost
    │   ├── RunPurged
    │   └── ExclusiveKeyTaken
    ├── IdempotencyMismatch       same key, other payload
    ├── EventIdReused             same event id, other content
    ├── ConsumerNotFound
    ├── ConsumerDiffers           a consumer of that name wants other events
    ├── BatchLost                 the batch went to another reader of the consumer
    ├── OutcomeUnknown            the connection was lost during the commit; `resolve` settles it
    ├── StoreUnavailable          cannot reach or use the database
    │   ├── StoreBusy
    │   └── StoreReadOnly
    ├── NotPermitted              the database does not let this user do that
    ├── UnsafeStore               the database would not keep the promises
    ├── SchemaMismatch            migrations are missing, newer, or were changed
    └── InvariantBroken           the ledger found its own data wrong
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ledger.events import RecordedEvent


class LedgerError(Exception):
    """Everything the ledger raises on purpose."""


class InvalidInput(LedgerError, ValueError):
    """A value cannot be stored on every database alike. Nothing was written.

    Args:
        field: Where it stands, as a path such as `input.steps[3].name`.
        why: What is wrong with it and what is allowed.
    """

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why} Nothing was written; correct the value and send it again.")
        self.field = field
        self.why = why


class SecretInInput(InvalidInput):
    """`input` holds something that looks like a credential; the value itself is never shown.

    Args:
        field: Where it stands.
        secret_kind: Which kind of secret it looks like.
    """

    def __init__(self, field: str, secret_kind: str) -> None:
        super().__init__(
            field,
            f"looks like a secret ({secret_kind}). A ledger keeps what it is told for ever:"
            " pass a reference to the secret and resolve it where the run executes.",
        )
        self.secret_kind = secret_kind


class RunNotFound(LedgerError, LookupError):
    """No event of that run is in the log."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {run_id} does not exist in this ledger. Check the id, and which ledger is open.")
        self.run_id = run_id


class IllegalTransition(LedgerError):
    """The run is not in a status from which the command may be given."""

    def __init__(self, *, run_id: str, status: str, command: str, why: str = "") -> None:
        reason = why or f"a run that is {status} does not allow it"
        super().__init__(f"{command}: run {run_id} is {status}: {reason}. Read the run again and decide anew.")
        self.run_id = run_id
        self.status = status
        self.command = command


class Refused(LedgerError):
    """Another writer was first.

    Attributes:
        run_id: The run that the append was for.
        winner: The event that won, where one event did.
    """

    run_id: str
    winner: "RecordedEvent[Any] | None"

    def __init__(self, message: str, *, run_id: str, winner: "RecordedEvent[Any] | None" = None) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.winner = winner


class VersionConflict(Refused):
    """The stream is not at the version the writer decided on."""

    def __init__(
        self, *, run_id: str, expected_version: int, version: int, winner: "RecordedEvent[Any] | None" = None
    ) -> None:
        by = f" ({_who(winner)})" if winner is not None else ""
        super().__init__(
            f"run {run_id} is at version {version}, you expected {expected_version}: another writer was first{by}."
            " Read it again and decide anew.",
            run_id=run_id,
            winner=winner,
        )
        self.expected_version = expected_version
        self.version = version


class RunClosed(Refused):
    """The run has its one terminal event."""

    def __init__(self, *, run_id: str, closed_version: int, winner: "RecordedEvent[Any] | None" = None) -> None:
        by = _who(winner) if winner is not None else f"its terminal event at version {closed_version}"
        super().__init__(
            f"run {run_id} is closed by {by}, and a finished run stays as it is. Enqueue a new run to do more work.",
            run_id=run_id,
            winner=winner,
        )
        self.closed_version = closed_version


class RunTaken(Refused):
    """Another worker has the run."""

    def __init__(self, *, run_id: str, worker: str | None, taken_version: int) -> None:
        super().__init__(
            f"run {run_id} is with worker {worker} since version {taken_version}. Take another run.",
            run_id=run_id,
        )
        self.worker = worker
        self.taken_version = taken_version


class ShardSuperseded(Refused):
    """A newer attempt of the shard has begun."""

    def __init__(self, *, run_id: str, fence: str, attempt: int, newest_attempt: int) -> None:
        super().__init__(
            f"{fence} of run {run_id} is at attempt {newest_attempt}, you write for attempt {attempt}:"
            " the shard was handed on. Stop this attempt; its results no longer count.",
            run_id=run_id,
        )
        self.fence = fence
        self.attempt = attempt
        self.newest_attempt = newest_attempt


class LeaseLost(Refused):
    """The lease was given up or went to another worker."""

    def __init__(self, *, run_id: str, shard: int | None, worker: str, token: int) -> None:
        what = f"run {run_id}" if shard is None else f"shard {shard} of run {run_id}"
        super().__init__(
            f"the lease of {worker} on {what} (token {token}) is over: its deadline passed and the work was handed on."
            " Stop; whoever holds it now goes on from what is in the log.",
            run_id=run_id,
        )
        self.shard = shard
        self.worker = worker
        self.token = token


class RunPurged(Refused):
    """The run's data was erased, or is being erased: nothing is added to it, and nothing brings it back."""

    def __init__(self, *, run_id: str, purged_version: int | None = None) -> None:
        at = "" if purged_version is None else f" at version {purged_version}"
        super().__init__(
            f"run {run_id} was purged{at}: its data is erased for good. Enqueue a new run to do more work.",
            run_id=run_id,
        )
        self.purged_version = purged_version


class ExclusiveKeyTaken(Refused):
    """An active run holds the exclusive key."""

    def __init__(self, *, key: str, active_run_id: str) -> None:
        super().__init__(
            f"exclusive key {key!r} is held by the active run {active_run_id}. Wait for it, abort it, or enqueue"
            ' with on_active="return" or on_active="supersede".',
            run_id=active_run_id,
        )
        self.key = key
        self.active_run_id = active_run_id


class IdempotencyMismatch(LedgerError):
    """The idempotency key was used before, with another payload."""

    def __init__(self, *, key: str, run_id: str) -> None:
        super().__init__(
            f"idempotency key {key!r} already made run {run_id} from another payload, so this would be a different"
            " run under the same key. Use a new key, or send the first payload again."
        )
        self.key = key
        self.run_id = run_id


class EventIdReused(LedgerError):
    """The event id is in the log with other content. Nothing was written."""

    def __init__(self, *, event_id: str) -> None:
        super().__init__(
            f"event id {event_id} is already in the log with other content (or only a part of this append is)."
            " An id names one event for ever: make a new one for a new event."
        )
        self.event_id = event_id


class ConsumerNotFound(LedgerError, LookupError):
    """There is no consumer of that name."""

    def __init__(self, consumer: str) -> None:
        super().__init__(f"there is no consumer {consumer!r} in this ledger. Make it first, or check its name.")
        self.consumer = consumer


class ConsumerDiffers(LedgerError):
    """There is a consumer of that name with another filter, or with other partitions; they never change."""

    def __init__(self, consumer: str) -> None:
        super().__init__(
            f"consumer {consumer!r} was made with another filter or number of partitions, and has its checkpoint for"
            " those. Ask for what it was made with, take another name, or remove it first."
        )
        self.consumer = consumer


class BatchLost(LedgerError):
    """The loan of a batch was over, and it is or was with another reader; or the consumer was reset."""

    def __init__(self, *, consumer: str, partition: int, token: int) -> None:
        super().__init__(
            f"the batch of partition {partition} of consumer {consumer!r} (token {token}) is not yours any more: its"
            " deadline passed and it was handed on, or the consumer was reset. Drop it, and fetch the next."
        )
        self.consumer = consumer
        self.partition = partition
        self.token = token


class OutcomeUnknown(LedgerError):
    """The connection was lost while the append committed: it may be in the log or not.

    Attributes:
        event_ids: The events in question.
        request: What was sent; `Ledger.resolve(error)` sends it again, which finds the events or appends them once.
            None where a server was asked, whose answer was lost.
    """

    def __init__(self, *, event_ids: Sequence[str], request: object) -> None:
        if request is None:
            message = (
                "the answer was lost: what was asked for may be in the log or not. Read the run before you ask again,"
                " since asking twice could write it twice."
            )
        else:
            message = (
                f"the connection was lost during the commit of {len(event_ids)} event(s), first {event_ids[0]}: they"
                " may be in the log or not. Call resolve() with this error, or send the same events again; nothing"
                " doubles."
            )
        super().__init__(message)
        self.event_ids = tuple(event_ids)
        self.request = request


class StoreUnavailable(LedgerError):
    """The database cannot be reached or used."""


class StoreBusy(StoreUnavailable):
    """The database stayed locked by others for longer than a writer waits. Nothing was written."""


class StoreReadOnly(StoreUnavailable):
    """The database takes no writes at present: a standby, or one that was told so. Nothing was written."""


class NotPermitted(LedgerError):
    """The database does not let the user of this connection do that, or a server its token. Nothing was written."""


class UnsafeStore(LedgerError):
    """The database would not keep the promises: its durability is off, or its version has a known defect."""


class SchemaMismatch(LedgerError):
    """The tables are not those of this release."""


class InvariantBroken(LedgerError):
    """The ledger found its own data wrong. This is a defect or a damaged file, never a caller's mistake."""


def _who(event: "RecordedEvent[Any]") -> str:
    by = f" by {event.actor}" if event.actor else ""
    return f"`{event.type}`{by} at version {event.version}, {event.envelope.recorded_at}"
