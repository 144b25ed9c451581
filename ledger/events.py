"""What a log stores and hands out, whatever the events are about."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Generic, NamedTuple, NewType, TypeVar

import msgspec

from ledger.envelope import Envelope

EventId = NewType("EventId", str)
RunId = NewType("RunId", str)
"""A run's id, which is its stream's id: a UUIDv7 in lower-case text."""

PURGE_FENCE: Final = "purge"
"""The fence that a purge raises: whoever only asks that a stream exists is refused from then on."""

Data = TypeVar("Data")


class NewEvent(NamedTuple):
    """One event as its writer made it, ready to be stored.

    Attributes:
        event_id: UUIDv7.
        type: The event's type, as in the envelope.
        envelope: Canonical bytes of the envelope.
        payload: Canonical bytes of the data.
        salt: What the commitment in the envelope was made with.
        closes: Whether this event closes the stream; the database accepts one such event a stream.
        fence: What this event fences off, such as `shard 3`; None for nearly all events.
        fence_epoch: From which epoch of the fence on appends are still accepted.
    """

    event_id: EventId
    type: str
    envelope: bytes
    payload: bytes
    salt: bytes
    closes: bool = False
    fence: str | None = None
    fence_epoch: int | None = None


class RecordedEvent(msgspec.Struct, Generic[Data], frozen=True, array_like=True, gc=False):
    """One event as it stands in the log.

    Attributes:
        position: Its place in the whole log: grows, is never reused, has holes on PostgreSQL.
        version: Its place in its stream: 1, 2, 3 …
        envelope: Everything that outlives the payload.
        data: The decoded payload; None when it was erased.
    """

    position: int
    version: int
    envelope: Envelope
    data: Data | None

    @property
    def run_id(self) -> RunId:
        return RunId(self.envelope.run_id)

    @property
    def event_id(self) -> EventId:
        return EventId(self.envelope.event_id)

    @property
    def type(self) -> str:
        return self.envelope.type

    @property
    def recorded_at(self) -> datetime:
        return datetime.fromisoformat(self.envelope.recorded_at)

    @property
    def actor(self) -> str | None:
        return self.envelope.actor

    @property
    def correlation_id(self) -> str | None:
        return self.envelope.correlation_id

    @property
    def causation_id(self) -> str | None:
        return self.envelope.causation_id

    @property
    def traceparent(self) -> str | None:
        return self.envelope.traceparent

    @property
    def schema_version(self) -> int:
        return self.envelope.schema_version


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of the log in order, as stored bytes.

    Attributes:
        events: JSON arrays of `[position, version, envelope, payload]`, the bytes of the writers joined and not
            re-made: one decode makes a list of `RecordedEvent`s. An erased payload is `null`.
        count: How many events it holds.
        last_position: Position of the last one; the position asked after when there is none.
        settled_position: Up to here no event can appear any more; a page after which no more follows at once has all
            of them. Only `read_log` fills it; it may be smaller than `last_position` when unsettled events were asked
            for.
        more: Whether another page may follow at once.
    """

    events: Sequence[bytes]
    count: int
    last_position: int
    settled_position: int = 0
    more: bool = False


_JOINED: Final = 250
"""Events in one array. Decoded, they fit a processor's cache: measured, arrays of 1,000 took twice as long an event."""


def join_page(rows: Sequence[tuple[int, int, bytes, bytes | None]]) -> list[bytes]:
    """Join stored rows to the JSON arrays of a page."""
    return [
        b"[%b]"
        % b",".join(
            [
                b"[%d,%d,%b,%b]" % (position, version, envelope, payload or b"null")
                for position, version, envelope, payload in rows[start : start + _JOINED]
            ]
        )
        for start in range(0, len(rows), _JOINED)
    ]
