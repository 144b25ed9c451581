"""CloudEvents 1.0: the envelope in which events leave over HTTP.

Attributes beside the standard's own: `sequence` (the position, zero-padded so that it sorts as text, as the extension
of that name asks), `runversion`, `actor`, `correlationid`, `causationid`, `traceparent`.

Source: CloudEvents 1.0.2, JSON format and the extensions `sequence` and `distributed tracing`.
"""

from typing import Any, Final
from urllib.parse import quote

import msgspec

from ledger.envelope import Envelope
from ledger.events import RecordedEvent
from ledger.run.codec import RecordedRunEvent, decode, encode_json
from ledger.run.values import JsonObject

TYPE_PREFIX: Final = "io.runfold.run."
SEQUENCE_DIGITS: Final = 20


def cloud_event(event: RecordedRunEvent, *, project: str | None) -> JsonObject:
    """Give an event as a CloudEvent in the JSON format.

    Args:
        event: The event; one whose data was erased has no `data`.
        project: Of its run; None for a run of none.
    """
    envelope = event.envelope
    optional = {
        "actor": envelope.actor,
        "correlationid": envelope.correlation_id,
        "causationid": envelope.causation_id,
        "traceparent": envelope.traceparent,
    }
    cloud: JsonObject = {
        "specversion": "1.0",
        "id": envelope.event_id,
        "source": source_of(project),
        "type": f"{TYPE_PREFIX}{envelope.type}.v{envelope.schema_version}",
        "subject": envelope.run_id,
        "time": envelope.recorded_at,
        "sequence": f"{event.position:0{SEQUENCE_DIGITS}d}",
        "runversion": event.version,
        **{name: value for name, value in optional.items() if value is not None},
    }
    if event.data is not None:
        data: JsonObject = msgspec.to_builtins(event.data)
        data.pop("type", None)
        cloud |= {"datacontenttype": "application/json", "data": data}
    return cloud


def event_of_cloud(cloud: JsonObject) -> RecordedRunEvent:
    """Make an event again from its CloudEvent, which has no commitment."""
    name, _, schema_version = str(cloud["type"]).removeprefix(TYPE_PREFIX).rpartition(".v")
    envelope = Envelope(
        actor=cloud.get("actor"),
        causation_id=cloud.get("causationid"),
        commitment="",
        correlation_id=cloud.get("correlationid"),
        event_id=cloud["id"],
        recorded_at=cloud["time"],
        run_id=cloud["subject"],
        schema_version=int(schema_version),
        traceparent=cloud.get("traceparent"),
        type=name,
    )
    data = None if "data" not in cloud else payload_of(envelope, cloud["data"])
    return RecordedEvent(int(cloud["sequence"]), cloud["runversion"], envelope, data)


def payload_of(envelope: Envelope, data: JsonObject) -> Any:
    """Make an event's data again from its JSON without the type, which the envelope has."""
    tag = envelope.type if envelope.schema_version == 1 else f"{envelope.type}.{envelope.schema_version}"
    return decode(encode_json({**data, "type": tag}))


def source_of(project: str | None) -> str:
    """Give the `source` of a project's events: a URI reference."""
    return "/ledger" if project is None else f"/ledger/{quote(project, safe='')}"
