"""Reads the log as folds need it: the same events, without what no fold looks at.

Of a result it keeps what it is counted by, of log lines only that they are there, of an envelope who and when: less to
decode and a fraction of the memory. The slim events are subclasses of the ledger's own, with the same tags, so
`ledger.run.state.apply_all` takes them as they are.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import reduce
from operator import or_
from typing import Any, NotRequired, TypedDict, TypeVar, cast

import msgspec

from ledger.errors import InvariantBroken
from ledger.run.codec import UPCASTERS, RecordedRunEvent, Upcasters, encode_json, upcast
from ledger.run.events import EVENT_TYPES, Aborted, DocumentRecorded, Enqueued, LogAppended, ShardResultAppended


class _Counted(TypedDict):
    status: str
    skipReason: NotRequired[Any]


class _Results(ShardResultAppended, frozen=True, kw_only=True, tag="shard_result_appended"):
    results: list[_Counted]  # type: ignore[assignment]


class _Lines(LogAppended, frozen=True, kw_only=True, tag="log_appended"):
    lines: list[msgspec.Raw]  # type: ignore[assignment]


class _Enqueued(Enqueued, frozen=True, kw_only=True, tag="enqueued"):
    input: msgspec.Raw = msgspec.Raw(b"{}")  # type: ignore[assignment]


class _Document(DocumentRecorded, frozen=True, kw_only=True, tag="document_recorded"):
    document: msgspec.Raw


_SLIM: dict[type, type] = {
    DocumentRecorded: _Document,
    ShardResultAppended: _Results,
    LogAppended: _Lines,
    Enqueued: _Enqueued,
}
_TYPES = [_SLIM.get(event, event) for event in EVENT_TYPES]
_Payload = reduce(or_, _TYPES, None)


class FoldEnvelope(msgspec.Struct, frozen=True, gc=False):
    """The part of an envelope that folds use; times stay text, which sorts as time."""

    recorded_at: str
    run_id: str


class FoldEvent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One event as a fold sees it.

    Attributes:
        position: Its place in the log.
        version: Its place in its stream.
        envelope: Whose it is, and when it was recorded.
        data: The payload without what no fold looks at; None when it was erased.
    """

    position: int
    version: int
    envelope: FoldEnvelope
    data: _Payload  # type: ignore[valid-type]

    @property
    def run_id(self) -> str:
        return self.envelope.run_id

    @property
    def recorded_at(self) -> datetime:
        return datetime.fromisoformat(self.envelope.recorded_at)


def as_recorded(events: Sequence[FoldEvent]) -> Sequence[RecordedRunEvent]:
    """Give events to the rules of a run: they have the attributes that those use, so nothing is copied."""
    return cast(Sequence[RecordedRunEvent], events)


class Place(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where one event stands; its payload is passed over."""

    position: int
    version: int
    envelope: FoldEnvelope
    data: msgspec.Raw

    @property
    def run_id(self) -> str:
        return self.envelope.run_id

    @property
    def recorded_at(self) -> datetime:
        return datetime.fromisoformat(self.envelope.recorded_at)


class Asked(msgspec.Struct, frozen=True, tag_field="type", tag="enqueued"):
    """Of an `enqueued` event, what rows about details say of their run."""

    kind: str
    enqueued_at: datetime
    project: str | None = None
    not_before: datetime | None = None


class ResultsInBytes(ShardResultAppended, frozen=True, kw_only=True, tag="shard_result_appended"):
    """Results as they were written."""

    results: list[msgspec.Raw]  # type: ignore[assignment]


class AbortedInBytes(Aborted, frozen=True, kw_only=True, tag="aborted"):
    """The end of a run, with the results of the tests that never ran as they were written."""

    skipped: list[msgspec.Raw] = msgspec.field(default_factory=list)  # type: ignore[assignment]


class DocumentInBytes(_Document, frozen=True, kw_only=True, tag="document_recorded"):
    """A document as it was written."""


_T = TypeVar("_T")


_Read = Callable[[Iterable[bytes]], list[_T]]
"""From the arrays of a page to its events."""


def _reader(decode: Callable[[bytes], list[_T]]) -> _Read[_T]:
    def read(events: Iterable[bytes]) -> list[_T]:
        try:
            return [event for joined in events for event in decode(joined)]
        except msgspec.MsgspecError as exc:
            raise InvariantBroken(
                f"a page of the log cannot be read: {exc}. If a newer release wrote it, upgrade this one; if none did,"
                " restore the database from a backup."
            ) from exc

    return read


def event_reader(upcasters: Upcasters, *, types: Sequence[type] = _TYPES) -> _Read[FoldEvent]:
    """Make a function that reads pages of events: those of the present, and those that lead to them.

    Args:
        upcasters: From old events to those of the present.
        types: The structs to read the present ones as, one an event.
    """
    event = msgspec.defstruct(
        "FoldEvent",
        [("data", reduce(or_, [*types, *upcasters], None))],
        bases=(FoldEvent,),
        frozen=True,
        array_like=True,
        gc=False,
    )
    read: _Read[FoldEvent] = _reader(msgspec.json.Decoder(list[event]).decode)  # type: ignore[valid-type]
    if not upcasters:
        return read
    as_present: Callable[[bytes], object] = msgspec.json.Decoder(reduce(or_, types)).decode

    def read_and_upcast(events: Iterable[bytes]) -> list[FoldEvent]:
        return [
            msgspec.structs.replace(event, data=as_present(encode_json(upcast(event.data, upcasters))))
            if type(event.data) in upcasters
            else event
            for event in read(events)
        ]

    return read_and_upcast


def reader_of(wanted: Iterable[type]) -> _Read[FoldEvent]:
    """Make a function that reads pages for a fold that looks at few events; of the others it reads the type.

    Args:
        wanted: The structs to read, of the ledger or of this module, each with the tag of its event; of two with one
            tag, the later.

    Raises:
        InvariantBroken: when one has no event's tag: a payload got a new schema version, and this struct did not.
    """
    by_tag = {kind.__struct_config__.tag: kind for kind in wanted}  # type: ignore[attr-defined]
    tags = [kind.__struct_config__.tag for kind in EVENT_TYPES]
    unknown = set(by_tag) - set(tags)
    if unknown:
        raise InvariantBroken(
            f"no event is tagged {', '.join(sorted(unknown))}: give the struct that reads it its tag."
        )
    return event_reader(UPCASTERS, types=[by_tag.get(tag) or _passed_over(str(tag)) for tag in tags])


def _passed_over(tag: str) -> type:
    return msgspec.defstruct("PassedOver", [], tag_field="type", tag=tag, frozen=True)


read_events = event_reader(UPCASTERS)
"""Read a page's events in one call. Raises `InvariantBroken` when it holds what this release does not know."""

read_places = _reader(msgspec.json.Decoder(list[Place]).decode)
"""Read where a page's events stand, whatever is in them."""
