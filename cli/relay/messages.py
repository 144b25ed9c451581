"""What an event is as a NATS message: its subject, its headers, and its CloudEvent as the body."""

from typing import Final, NamedTuple
from urllib.parse import quote

import msgspec

from ledger.interop.cloudevents import cloud_event
from ledger.run.codec import RecordedRunEvent

MESSAGE_ID: Final = "Nats-Msg-Id"
"""JetStream drops a message whose id it has had within the stream's duplicate window."""
POSITION: Final = "Runfold-Position"
HEADERS_BYTES: Final = 1_024
"""Room for headers and subject below the server's limit of a message."""


class Message(NamedTuple):
    """One message, ready to be published."""

    position: int
    subject: str
    headers: dict[str, str]
    body: bytes


def message_of(event: RecordedRunEvent, *, project: str | None, prefix: str, bytes_max: int) -> Message:
    """Make an event's message.

    Args:
        event: The event.
        project: Of its run.
        prefix: Of every subject.
        bytes_max: The most that the server takes. A larger event goes without its data, and its `dataref` says where
            that is, as the claim check extension of CloudEvents has it.
    """
    cloud = cloud_event(event, project=project)
    body = msgspec.json.encode(cloud)
    if len(body) + HEADERS_BYTES > bytes_max:
        cloud.pop("data")
        reference = f"/v1/runs/{event.run_id}/events?after={event.version - 1}&limit=1"
        body = msgspec.json.encode({**cloud, "dataref": reference})
    headers = {
        MESSAGE_ID: str(event.event_id),
        POSITION: str(event.position),
        "content-type": "application/cloudevents+json",
    }
    return Message(event.position, subject_of(event.type, project=project, prefix=prefix), headers, body)


def subject_of(event_type: str, *, project: str | None, prefix: str) -> str:
    """Give a subject: `prefix.project.type`; `_` stands for no project."""
    return f"{prefix}.{token_of(project)}.{event_type}"


def token_of(project: str | None) -> str:
    """Write a project as one token of a subject: what NATS reads as more than a letter is percent-encoded."""
    if project is None:
        return "_"
    return "%5F" if project == "_" else quote(project, safe="").replace(".", "%2E").replace("~", "%7E")
