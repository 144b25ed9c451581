"""One run of a source system, as far as its database tells, and the events that a ledger still lacks of it.

Pure: no database is touched here. What a source cannot have meant (two writers' leftovers, a malformed value) is
repaired by the readers and said in `repairs`; what is made here is a history that the rules of a run would take.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

from ledger import limits
from ledger.run.codec import encode_json
from ledger.run.events import (
    Aborted,
    Annotated,
    Completed,
    Deleted,
    DocumentRecorded,
    Enqueued,
    Failed,
    GateFinished,
    Interrupted,
    LogAppended,
    PhaseEntered,
    RunEvent,
    ShardCompleted,
    ShardResultAppended,
    Started,
    StatsIncremented,
    VersionResolved,
)
from ledger.run.state import RunState
from ledger.run.values import GateOutcome, JsonObject, Status, cut

_CHUNK_BYTES: Final = limits.PAYLOAD_BYTES_MAX // 2


@dataclass(slots=True, kw_only=True)
class SourceRun:
    """What a source tells of one run.

    Attributes:
        source_id: Its id there; a label of the run.
        run_id: Its id here: the same whenever it is imported.
        status: Where it stands, in the ledger's words. A running one is held by the import, so that no worker takes it.
        results: Rows in their order, with the shard they are of.
        logs: Lines with their time and level, in order.
        documents: Heavy facts by name.
        notes: Facts that came one by one, such as events: name, document and time.
        passed: The counter, where it is not what the results add up to; likewise `failed` and `total`.
        repairs: What was mended, for people.
    """

    source_id: str
    run_id: str
    kind: str
    status: Status
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    deleted_at: datetime | None = None
    project: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    input: JsonObject = field(default_factory=dict)
    parent_run_id: str | None = None
    shard_count: int | None = None
    shards_completed: int = 0
    phase: str | None = None
    version: str | None = None
    gate: tuple[GateOutcome, str | None] | None = None
    results: list[tuple[int | None, JsonObject]] = field(default_factory=list)
    logs: list[tuple[datetime, str | None, str]] = field(default_factory=list)
    documents: dict[str, Any] = field(default_factory=dict)
    notes: list[tuple[str, Any, datetime]] = field(default_factory=list)
    passed: int | None = None
    failed: int | None = None
    total: int | None = None
    error: str | None = None
    error_category: str | None = None
    failure_summary: str | None = None
    duration_ms: int | None = None
    repairs: list[str] = field(default_factory=list)


class Known(NamedTuple):
    """What the ledger has of a run already.

    Attributes:
        state: The run, folded; version 0 when it is new.
        documents: The bytes of the latest of each name.
        notes: How many notes it has.
    """

    state: RunState
    documents: Mapping[str, bytes]
    notes: int


class Dated(NamedTuple):
    """An event and when it happened."""

    at: datetime
    event: RunEvent


def missing_events(run: SourceRun, known: Known, *, worker: str) -> list[Dated]:
    """Give the events that the ledger lacks of a run, in the order in which they are appended.

    Args:
        run: What the source tells.
        known: What the ledger has.
        worker: Whom the run is held by.
    """
    state = known.state
    began_at = run.started_at or run.created_at
    ended_at = run.finished_at or began_at
    events = [*_beginning(run, state, began_at, worker)]
    if not state.closed_version:
        events += _work(run, known, began_at, ended_at)
    events += _lines(run.logs[state.log_line_count :])
    events += [
        Dated(ended_at, DocumentRecorded(name=name, document=document))
        for name, document in run.documents.items()
        if known.documents.get(name) != encode_json(document)
    ]
    labels: dict[str, str | None] = {
        name: value for name, value in run.labels.items() if state.version and state.labels.get(name) != value
    }
    if labels:
        events.append(Dated(ended_at, Annotated(labels=labels)))
    if not state.closed_version:
        events += _end(run, state, ended_at)
    if run.deleted_at is not None and state.deleted_at is None and run.status.is_terminal:
        events.append(Dated(run.deleted_at, Deleted(deleted_at=run.deleted_at)))
    return events


def _beginning(run: SourceRun, state: RunState, began_at: datetime, worker: str) -> Iterator[Dated]:
    if not state.version:
        yield Dated(
            run.created_at,
            Enqueued(
                kind=run.kind,
                enqueued_at=run.created_at,
                project=run.project,
                input=run.input,
                labels=run.labels,
                shard_count=run.shard_count,
                total=run.total,
                parent_run_id=run.parent_run_id,
            ),
        )
    if not state.attempt and run.status not in (Status.QUEUED, Status.SCHEDULED):
        yield Dated(began_at, Started(attempt=1, started_at=began_at, worker=worker))


def _work(run: SourceRun, known: Known, began_at: datetime, ended_at: datetime) -> Iterator[Dated]:
    """Give what the run did, of which the ledger has a part: rows and notes only ever become more."""
    state = known.state
    if run.version is not None and state.resolved_version != run.version:
        yield Dated(began_at, VersionResolved(resolved_version=run.version))
    if run.phase is not None and state.phase != run.phase and not run.status.is_terminal:
        yield Dated(began_at, PhaseEntered(phase=run.phase))
    yield from [
        Dated(at, DocumentRecorded(name=name, document=document)) for name, document, at in run.notes[known.notes :]
    ]
    have = sum(state.statuses.values())
    for shard, rows in _chunks(run.results[have:]):
        yield Dated(ended_at, ShardResultAppended(results=rows, shard=shard))
    stats = _stats(run, state)
    if stats is not None:
        yield Dated(ended_at, stats)
    for _ in range(state.shards_completed, min(run.shards_completed, run.shard_count or 1)):
        yield Dated(ended_at, ShardCompleted())
    if run.gate is not None and not state.gates:
        yield Dated(ended_at, GateFinished(gate="quality", outcome=run.gate[0], summary=run.gate[1]))


def _chunks(rows: Sequence[tuple[int | None, JsonObject]]) -> Iterator[tuple[int | None, list[JsonObject]]]:
    """Cut rows to events: one shard each, not too many, not too large."""
    chunk: list[JsonObject] = []
    of_shard: int | None = None
    room = _CHUNK_BYTES
    for shard, row in rows:
        size = len(encode_json(row))
        if chunk and (shard != of_shard or len(chunk) == limits.RESULTS_PER_EVENT_MAX or room < size):
            yield of_shard, chunk
            chunk, room = [], _CHUNK_BYTES
        of_shard = shard
        chunk.append(row)
        room -= size
    if chunk:
        yield of_shard, chunk


def _stats(run: SourceRun, state: RunState) -> StatsIncremented | None:
    """Move the counters to the source's where they are not what its rows add up to."""
    if run.passed is None or run.failed is None:
        return None
    words = [str(row.get("status")) for _, row in run.results]
    passed = sum(word in ("passed", "warning") for word in words)
    failed = len(words) - passed - words.count("skipped")
    if (run.passed, run.failed) == (passed, failed) and not state.stats_used:
        return None
    moved = StatsIncremented(passed=run.passed - state.stats_passed, failed=run.failed - state.stats_failed)
    return moved if moved.passed or moved.failed else None


def _lines(logs: Sequence[tuple[datetime, str | None, str]]) -> Iterator[Dated]:
    """Join lines of one moment and level to one event."""
    chunk: list[str] = []
    of: tuple[datetime, str | None] | None = None
    for at, level, line in logs:
        if chunk and ((at, level) != of or len(chunk) == limits.LOG_LINES_PER_EVENT_MAX):
            assert of is not None
            yield Dated(of[0], LogAppended(lines=chunk, source="import", level=of[1]))
            chunk = []
        of = (at, level)
        chunk.append(cut(line, chars_max=limits.LOG_LINE_CHARS_MAX))
    if chunk and of is not None:
        yield Dated(of[0], LogAppended(lines=chunk, source="import", level=of[1]))


def _end(run: SourceRun, state: RunState, ended_at: datetime) -> Iterator[Dated]:
    error = None if run.error is None else cut(run.error, chars_max=limits.ERROR_CHARS_MAX)
    match run.status:
        case Status.COMPLETED:
            yield Dated(ended_at, Completed(finished_at=ended_at, duration_ms=run.duration_ms))
        case Status.FAILED:
            yield Dated(
                ended_at,
                Failed(
                    finished_at=ended_at,
                    error=error or "failed",
                    error_category=run.error_category,
                    failure_summary=run.failure_summary,
                    duration_ms=run.duration_ms,
                ),
            )
        case Status.ABORTED:
            reason = None if error is None else error[: limits.TEXT_CHARS_MAX]
            yield Dated(ended_at, Aborted(finished_at=ended_at, reason=reason, duration_ms=run.duration_ms))
        case Status.INTERRUPTED if state.status is not Status.INTERRUPTED:
            yield Dated(ended_at, Interrupted(reason=(error or "interrupted")[: limits.TEXT_CHARS_MAX]))
        case _:
            pass
