"""What a callback says: the terminal event as a CloudEvent, with what the run came to as its data."""

from datetime import datetime
from typing import Any

import msgspec

from ledger.interop.cloudevents import cloud_event
from ledger.run.codec import RecordedRunEvent, timestamp
from ledger.run.state import RunState


def message(event: RecordedRunEvent, run: RunState) -> bytes:
    """Write a callback's body.

    Args:
        event: The terminal event.
        run: As it stands now; what ended it, and its counts, do not change any more.
    """
    cloud = cloud_event(event, project=run.project)
    cloud |= {"datacontenttype": "application/json", "data": summary(run)}
    return msgspec.json.encode(cloud)


def summary(run: RunState) -> dict[str, Any]:
    """Tell what a run came to, under the names that Sentri's callbacks have where they have one."""
    return {
        "runId": run.run_id,
        "kind": run.kind,
        "project": run.project,
        "status": run.status.value,
        "verdict": run.verdict.value,
        "attempt": run.attempt,
        "passed": run.passed,
        "failed": run.failed,
        "skipped": run.skipped,
        "total": run.total,
        "error": run.error,
        "errorCategory": run.error_category,
        "failureSummary": run.failure_summary,
        "outputRef": run.output_ref,
        "gates": [
            {"gate": gate.gate, "outcome": gate.outcome.value, "summary": gate.summary} for gate in run.gates.values()
        ],
        "labels": run.labels,
        "createdAt": _text(run.created_at),
        "startedAt": _text(run.started_at),
        "finishedAt": _text(run.finished_at),
        "durationMs": run.duration_ms,
    }


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else timestamp(moment)
