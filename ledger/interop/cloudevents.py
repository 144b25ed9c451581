"""CloudEvents 1.0: the envelope in which events leave over HTTP.

Attributes beside the standard's own: `sequence` (the position, zero-padded so that it sorts as text, as the extension
of that name asks), `runversion`, `actor`, `correlationid`, `causationid`, `traceparent`.

Source: CloudEvents 1.0.2, JSON format and the extensions `sequence` and `distributed tracing`.
"""

from typing import Final
from urllib.parse import quote

import msgspec

from ledger.run.codec import RecordedRunEvent
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


def source_of(project: str | None) -> str:
    """Give the `source` of a project's events: a URI reference."""
    return "/ledger" if project is None else f"/ledger/{quote(project, safe='')}"
