"""What can still be said of a run as of a moment before its purge."""

from collections.abc import Iterable
from typing import Final

from ledger.run.codec import RecordedRunEvent
from ledger.run.events import Purged
from ledger.run.state import RunState, initial
from ledger.run.values import Status

_STATUSES: Final = {
    "enqueued": Status.QUEUED,
    "released": Status.QUEUED,
    "started": Status.RUNNING,
    "resumed": Status.RUNNING,
    "interrupted": Status.INTERRUPTED,
    "attempt_failed": Status.QUEUED,
    "completed": Status.COMPLETED,
    "failed": Status.FAILED,
    "aborted": Status.ABORTED,
}
"""The status that an event leads to, as far as its type tells: until when a run was scheduled is erased."""


def remains(events: Iterable[RecordedRunEvent], *, purge: RecordedRunEvent) -> RunState:
    """Fold what is left of events whose data a purge erased.

    Status, attempt and the bin are told by the types and times of the events, what never changes in a run's life by
    the purge; figures, verdict and texts are not known. `purged_version` is later than `version`, so that nobody takes
    this for all there was.

    Args:
        events: The run's events up to the moment that is asked for.
        purge: The `purged` event that came after them.
    """
    state = initial(purge.run_id)
    if isinstance(purge.data, Purged):
        kept = purge.data.skeleton
        state.kind, state.project, state.shard_count = kept.kind, kept.project, kept.shard_count
        state.parent_run_id, state.retry_of, state.created_at = kept.parent_run_id, kept.retry_of, kept.created_at
    for event in events:
        _note(state, event)
    if state.closed_version and isinstance(purge.data, Purged):
        state.finished_at, state.duration_ms = purge.data.skeleton.finished_at, purge.data.skeleton.duration_ms
    state.purged_version = purge.version
    return state


def _note(state: RunState, event: RecordedRunEvent) -> None:
    state.version, state.position, state.updated_at = event.version, event.position, event.recorded_at
    if event.type == "deleted":
        state.deleted_at = event.recorded_at
    elif event.type == "restored":
        state.deleted_at = None
    elif event.type in _STATUSES and not state.closed_version:
        state.status = _STATUSES[event.type]
        state.closed_version = event.version if state.is_terminal else 0
        if event.type == "started":
            state.attempt += 1
            state.started_at = state.started_at or event.recorded_at
