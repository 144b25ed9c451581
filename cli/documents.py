"""What `--json` prints: every field of a run and of an event, in one flat form each.

Fields that have their default are there as well: a program that reads them need not know defaults.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from ledger.consumer import ConsumerStatus
from ledger.events import RecordedEvent
from ledger.run.codec import RecordedRunEvent, timestamp
from ledger.run.events import Enqueued, LogAppended
from ledger.run.state import Run, RunState, Shard
from ledger.run.values import PASSED_RESULTS, SKIPPED_RESULTS, JsonObject

RUN_FIELDS: Final = Run.__struct_fields__
STATE_FIELDS: Final = (*RUN_FIELDS, "input", "shards", "gates", "phases", "finalizer", "expected_total")
EVENT_FIELDS: Final = (
    "position",
    "version",
    "type",
    "run_id",
    "event_id",
    "schema_version",
    "recorded_at",
    "actor",
    "correlation_id",
    "causation_id",
    "traceparent",
    "data",
)
LOG_FIELDS: Final = ("run_id", "version", "position", "recorded_at", "shard", "source", "level", "line")
CONSUMER_FIELDS: Final = (
    "name",
    "types",
    "kind",
    "projects",
    "labels",
    "partitions",
    "created_at",
    "position",
    "head",
    "events_behind_max",
    "behind_since",
    "places",
)
WRITTEN_FIELDS: Final = ("run_id", "version", "event_id", "result")
"""What a command that writes says."""

_TIMES: Final = frozenset(name for name in RUN_FIELDS if name.endswith("_at") or name == "not_before")


def consumer_document(status: ConsumerStatus) -> JsonObject:
    """Give a consumer, and how far it has come."""
    settings = status.settings
    wanted = settings.wanted
    return {
        "name": settings.name,
        "types": sorted(wanted.types),
        "kind": wanted.kind,
        "projects": None if wanted.projects is None else sorted(wanted.projects),
        "labels": dict(wanted.labels),
        "partitions": settings.partitions,
        "created_at": timestamp(settings.created_at),
        "position": status.position,
        "head": status.head,
        "events_behind_max": status.events_behind_max,
        "behind_since": None if status.behind_since is None else timestamp(status.behind_since),
        "places": [place._asdict() for place in status.places],
    }


def run_document(run: Run) -> JsonObject:
    """Give every field of a run."""
    return {name: _value(name, getattr(run, name)) for name in RUN_FIELDS}


def state_document(state: RunState, *, input: JsonObject | None) -> JsonObject:
    """Give every field of a run that is shown by itself.

    Args:
        state: The run.
        input: What it was enqueued with; None when that was erased, or is not wanted.
    """
    return {
        **run_document(state),
        "input": input,
        "shards": [shard_document(number, shard) for number, shard in sorted(state.shards.items())],
        "gates": [msgspec.structs.asdict(gate) for gate in state.gates.values()],
        "phases": state.phases,
        "finalizer": state.finalizer,
        "expected_total": state.expected_total,
    }


def shard_document(number: int, shard: Shard) -> JsonObject:
    """Give a shard and what its results add up to."""
    statuses = shard.results.statuses
    passed = sum(count for status, count in statuses.items() if status in PASSED_RESULTS)
    skipped = sum(count for status, count in statuses.items() if status in SKIPPED_RESULTS)
    return {
        "shard": number,
        "attempt": shard.attempt,
        "is_completed": shard.is_completed,
        "exit_code": shard.exit_code,
        "passed": passed,
        "failed": sum(statuses.values()) - passed - skipped,
        "skipped": skipped,
        "statuses": statuses,
    }


def event_document(event: RecordedRunEvent) -> JsonObject:
    """Give an event: its envelope without the commitment, and its data without the type that stands beside it."""
    envelope = event.envelope
    return {
        "position": event.position,
        "version": event.version,
        "type": envelope.type,
        "run_id": envelope.run_id,
        "event_id": envelope.event_id,
        "schema_version": envelope.schema_version,
        "recorded_at": envelope.recorded_at,
        "actor": envelope.actor,
        "correlation_id": envelope.correlation_id,
        "causation_id": envelope.causation_id,
        "traceparent": envelope.traceparent,
        "data": data_document(event),
    }


def data_document(event: RecordedRunEvent) -> JsonObject | None:
    """Give an event's data; None when it was erased."""
    if event.data is None:
        return None
    data: JsonObject = msgspec.to_builtins(event.data)
    data.pop("type", None)
    return data


def purged_document(row: JsonObject) -> JsonObject:
    """Give what is told of a purged run."""
    return {**row, "finished_at": _value("finished_at", row["finished_at"])}


def winner_document(event: RecordedEvent[Any]) -> JsonObject:
    """Give the event that won, as far as a loser needs to know it."""
    return {
        "type": event.type,
        "actor": event.actor,
        "version": event.version,
        "event_id": event.event_id,
        "recorded_at": event.envelope.recorded_at,
    }


def log_documents(event: RecordedRunEvent) -> Iterator[JsonObject]:
    """Give each line of a `log_appended` event; any other event has none."""
    if isinstance(event.data, LogAppended):
        for line in event.data.lines:
            yield {
                "run_id": event.run_id,
                "version": event.version,
                "position": event.position,
                "recorded_at": event.envelope.recorded_at,
                "shard": event.data.shard,
                "source": event.data.source,
                "level": event.data.level,
                "line": line,
            }


def input_of(event: RecordedRunEvent) -> JsonObject | None:
    """Give the input that a run's first event carries; None when it was erased."""
    return event.data.input if isinstance(event.data, Enqueued) else None


def _value(name: str, value: Any) -> Any:
    return timestamp(value) if name in _TIMES and value is not None else value
