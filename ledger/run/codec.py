"""Events to canonical bytes and back.

The payload's bytes are made once, here, by the writer; stores and pages hand them on untouched, and hundreds of events
are decoded in one call.

Source of canonical form: RFC 8785 for the order of keys (equal for keys of the basic plane); numbers are written as
msgspec writes them, and since the bytes are stored nobody ever has to write them again.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import reduce
from operator import or_
from typing import Any, Final

import msgspec

from ledger import limits
from ledger.envelope import Envelope, commitment, encode_envelope
from ledger.errors import InvalidInput, InvariantBroken
from ledger.events import PURGE_FENCE, EventId, NewEvent, RecordedEvent, RunId
from ledger.run.events import (
    EVENT_TYPES,
    TERMINAL_EVENTS,
    Aborted,
    Annotated,
    AttemptFailed,
    Enqueued,
    FinalizationStarted,
    Interrupted,
    Purged,
    Resumed,
    RunEvent,
    ShardResultAppended,
    ShardRetried,
    Started,
    schema_version_of,
    type_of,
)
from ledger.run.leases import FINALIZATION_FENCE, RUN_FENCE
from ledger.run.values import check_json, check_labels, check_results

RecordedRunEvent = RecordedEvent[RunEvent]

encode_json = msgspec.json.Encoder(order="sorted").encode
"""Canonical bytes of any checked value."""

Upcasters = Mapping[type, Callable[[Any], object]]

UPCASTERS: Final[Upcasters] = {}
"""From the struct of each replaced schema version to what makes its successor of it, one version a step."""


def upcast(event: object, upcasters: Upcasters) -> object:
    """Give an event in its present schema version."""
    while (step := upcasters.get(type(event))) is not None:
        event = step(event)
    return event


def page_reader(events: Sequence[type], upcasters: Upcasters) -> Callable[[bytes], list[RecordedEvent[Any]]]:
    """Make a function that reads arrays of events: those of the present, and those that lead to them."""
    payload = reduce(or_, [*events, *upcasters])
    read = msgspec.json.Decoder(list[RecordedEvent[payload]]).decode  # type: ignore[valid-type]
    if not upcasters:
        return read

    def read_and_upcast(page: bytes) -> list[RecordedEvent[Any]]:
        return [
            msgspec.structs.replace(event, data=upcast(event.data, upcasters))
            if type(event.data) in upcasters
            else event
            for event in read(page)
        ]

    return read_and_upcast


_decode: Callable[[bytes], object] = msgspec.json.Decoder(reduce(or_, [*EVENT_TYPES, *UPCASTERS])).decode
_decode_page = page_reader(EVENT_TYPES, UPCASTERS)

_TYPE_NAMES: dict[type, tuple[str, int, bool]] = {
    event: (type_of(event), schema_version_of(event), issubclass(event, TERMINAL_EVENTS)) for event in EVENT_TYPES
}


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """Who writes and why: what the envelope carries beside the event's own facts."""

    actor: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None


NO_CONTEXT = Context()


def timestamp(moment: datetime) -> str:
    """Write a moment in the ledger's one format: UTC, six decimals, `Z`; it sorts as text."""
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return utc.isoformat(timespec="microseconds")[:-6] + "Z"


def encode(event: RunEvent) -> bytes:
    """Give the canonical bytes of a payload.

    Raises:
        InvalidInput: when they are too many, or the event holds what JSON cannot.
    """
    try:
        payload = encode_json(event)
    except (UnicodeEncodeError, RecursionError, TypeError, OverflowError) as exc:
        raise InvalidInput(type_of(event), f"cannot be written as JSON: {exc}.") from exc
    if len(payload) > limits.PAYLOAD_BYTES_MAX:
        raise InvalidInput(
            type_of(event),
            f"has {len(payload):,} bytes; {limits.PAYLOAD_BYTES_MAX:,} are allowed in one event.",
        )
    return payload


def check_event(event: RunEvent, payload: bytes) -> None:
    """Check an event that no command made: what is written must be readable for ever, and alike everywhere.

    Types and time zones are checked by reading the payload back, which costs a fraction of looking at every value.
    `enqueued` has its own check, `commands.check_enqueued`.

    Args:
        event: The event.
        payload: Its bytes.

    Raises:
        InvalidInput: when a value cannot be stored, or the event would be read back as another one.
    """
    name = type_of(event)
    if isinstance(event, ShardResultAppended):
        check_results(event.results)
    elif isinstance(event, Aborted):
        check_results(event.skipped, field="skipped")
    elif _SUSPICIOUS.search(payload):
        check_json(msgspec.to_builtins(event), field=name)
    if isinstance(event, Annotated) and isinstance(event.labels, Mapping):
        check_labels({label: "" if value is None else value for label, value in event.labels.items()})
    try:
        read = _decode(payload)
    except msgspec.MsgspecError as exc:
        raise InvalidInput(name, f"could not be read again: {exc}.") from exc
    if read != event:
        raise InvalidInput(name, "would be read as another event: a value is not of its field's type.")


_SUSPICIOUS: Final = re.compile(rb"\\u0000|[0-9]{16}")
"""What NUL and integers past 2^53 look like in a payload; not all that looks so is."""


def to_new_events(
    events: Sequence[RunEvent],
    *,
    run_id: RunId,
    recorded_at: datetime | Sequence[datetime],
    event_ids: Sequence[EventId],
    salts: Sequence[bytes],
    context: Context = NO_CONTEXT,
    first_version: int = 0,
) -> tuple[NewEvent, ...]:
    """Make events ready to be stored.

    Args:
        events: What happened, in order.
        run_id: Whose stream they belong to.
        recorded_at: The writer's clock; or one time for each event, of a history that is brought in.
        event_ids: One for each event.
        salts: One for each event.
        context: Who and why.
        first_version: Version of the first one, when it is known: events that take a run or give it up fence off
            whoever had it before. 0 when it is not.
    """
    if isinstance(recorded_at, datetime):
        times = [timestamp(recorded_at)] * len(events)
    else:
        times = [timestamp(moment) for moment in recorded_at]
    made = []
    for index, (event, event_id, salt, at) in enumerate(zip(events, event_ids, salts, times, strict=True)):
        event_type, schema_version, closes = _TYPE_NAMES[type(event)]
        payload = encode(event)
        envelope = Envelope(
            actor=context.actor,
            causation_id=context.causation_id,
            commitment=commitment(salt, payload),
            correlation_id=context.correlation_id,
            event_id=event_id,
            recorded_at=at,
            run_id=run_id,
            schema_version=schema_version,
            traceparent=context.traceparent,
            type=event_type,
        )
        fence, epoch = _fence(event, first_version and first_version + index)
        made.append(NewEvent(event_id, event_type, encode_envelope(envelope), payload, salt, closes, fence, epoch))
    return tuple(made)


_TAKING: Final = frozenset({Started, Resumed, Interrupted, AttemptFailed})


def _fence(event: RunEvent, version: int) -> tuple[str, int] | tuple[None, None]:
    """Give what an event fences off, from which epoch on; most events fence nothing off."""
    kind = type(event)
    if isinstance(event, ShardRetried):
        return shard_fence(event.shard), event.shard_attempt
    if version and kind in _TAKING:
        return RUN_FENCE, version
    if version and kind is FinalizationStarted:
        return FINALIZATION_FENCE, version
    if kind is Purged:
        return PURGE_FENCE, 1
    return None, None


def fingerprint(event: Enqueued) -> str:
    """Identify what a run was asked to do, whenever it was asked: the payload behind an idempotency key."""
    return hashlib.sha256(encode_json(msgspec.structs.replace(event, enqueued_at=_EPOCH))).hexdigest()


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def shard_fence(shard: int) -> str:
    """Name the fence that a newer attempt of a shard raises."""
    return f"shard {shard}"


def decode(payload: bytes) -> RunEvent:
    """Read one payload."""
    try:
        event: RunEvent = upcast(_decode(payload), UPCASTERS)  # type: ignore[assignment]
    except msgspec.MsgspecError as exc:
        raise InvariantBroken(f"a stored payload cannot be read: {exc}. {_NEWER}") from exc
    return event


def decode_page(events: Iterable[bytes]) -> list[RecordedRunEvent]:
    """Read a page's events."""
    return [event for joined in events for event in decode_joined(joined)]


def decode_joined(events: bytes) -> list[RecordedRunEvent]:
    """Read one array of a page."""
    try:
        return _decode_page(events)
    except msgspec.MsgspecError as exc:
        raise InvariantBroken(f"a page of the log cannot be read: {exc}. {_NEWER}") from exc


_NEWER = "If a newer release wrote it, upgrade this one; if none did, restore the database from a backup."
