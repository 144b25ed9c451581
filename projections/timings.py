"""The `timings` projection: when the attempts, phases and shards of a run began and ended.

Times are those that the events tell where they tell one (`started_at`, `finished_at`), else when they were recorded.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import msgspec

from ledger import limits
from ledger.run.codec import timestamp
from ledger.run.events import (
    Aborted,
    AttemptFailed,
    Completed,
    Failed,
    PhaseEntered,
    Released,
    ShardCompleted,
    ShardRetried,
    ShardStarted,
    Started,
)
from projections.decoding import Asked, FoldEvent, reader_of
from projections.details import (
    RUN_EVENTS,
    Detail,
    DetailsRow,
    Folded,
    Header,
    Layout,
    StoredDetails,
    fold_details,
    restore_details,
    store_details,
)

SHARDS, PHASES, ATTEMPTS = 0, 1, 2
"""The parts of a run's rows. A shard's row has the shard's number, the others are numbered after the last shard."""


class AttemptTiming(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of a run.

    Attributes:
        queued_at: Since when it could have been started.
        queued_ms: How long it waited to be.
        duration_ms: From its start to its end; None while it has none.
    """

    attempt: int
    worker: str | None
    queued_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    queued_ms: int | None
    duration_ms: int | None


class PhaseTiming(msgspec.Struct, frozen=True, kw_only=True):
    """One stay in a phase.

    Attributes:
        attempt: Of the run.
        finished_at: When the next phase was entered, or the attempt ended.
    """

    phase: str
    attempt: int
    started_at: datetime | None
    finished_at: datetime | None
    duration_ms: int | None


class ShardTiming(msgspec.Struct, frozen=True, kw_only=True):
    """The newest attempt of a shard.

    Attributes:
        attempt: Of the shard.
        worker: Who took it; None when the run's worker did.
        started_at: When it was taken, or else when its run was started.
        finished_at: When it was completed.
    """

    shard: int
    attempt: int
    worker: str | None
    queued_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    queued_ms: int | None
    duration_ms: int | None


class RunTimings(msgspec.Struct, frozen=True, kw_only=True):
    """When everything in a run began and ended; attempts and phases in their order, shards by their number."""

    run_id: str
    attempts: list[AttemptTiming]
    phases: list[PhaseTiming]
    shards: list[ShardTiming]


# --- the fold -----------------------------------------------------------------------------------------------


class Span(msgspec.Struct, omit_defaults=True):
    """What is under way: times in the ledger's text format.

    Attributes:
        number: Of its row.
        name: Of the phase.
    """

    number: int
    attempt: int
    name: str | None = None
    worker: str | None = None
    queued_at: str | None = None
    started_at: str | None = None


class TimingsState(Folded, omit_defaults=True):
    """What folding on needs.

    Attributes:
        queued_at: Since when the run could be started.
        attempt, phase: Those under way.
        shards: Those that are known of, by number; one that is completed is only its attempt and its completion.
        completed: Numbers of the shards that are.
        next_number: Of the next attempt or phase.
    """

    queued_at: str | None = None
    attempt: Span | None = None
    phase: Span | None = None
    shards: dict[int, Span] = msgspec.field(default_factory=dict)
    completed: dict[int, int] = msgspec.field(default_factory=dict)
    next_number: int = limits.SHARDS_MAX


TimingsRow = DetailsRow[TimingsState]

LAYOUT: Final = Layout(
    "timing_runs",
    "timings",
    (
        ("attempt", "integer"),
        ("name", "text"),
        ("worker", "text"),
        ("queued_at", "text"),
        ("started_at", "text"),
        ("finished_at", "text"),
    ),
)


@dataclass(frozen=True, slots=True)
class TimingsProjection:
    """Folds events into rows of timings. Raise `version` with every change of the fold or of what is stored."""

    name: str = "timings"
    version: int = 1

    def read(self, events: Iterable[bytes]) -> list[FoldEvent]:
        """Read a page's events, without what this fold does not look at."""
        return _read(events)

    def fold(self, row: TimingsRow | None, events: Sequence[FoldEvent]) -> TimingsRow:
        """Fold the next events of the row's run and give the row: the given one, changed, or the first for None."""
        if row is None:
            row = DetailsRow(events[0].run_id, TimingsState())
        fold_details(row, events, _apply)
        return row

    def store(self, row: TimingsRow) -> StoredDetails:
        """Give what the tables keep of a row."""
        return store_details(row)

    def weight(self, row: TimingsRow) -> int:
        """Tell how many detail rows a row holds that are not in the tables yet."""
        return len(row.rows)


TIMINGS: Final = TimingsProjection()

_read = reader_of(
    [*RUN_EVENTS, Released, Started, PhaseEntered, AttemptFailed, ShardStarted, ShardRetried, ShardCompleted]
)
_decode_state = msgspec.json.Decoder(TimingsState).decode


def restore(header: Header) -> TimingsRow:
    """Give a row back as it was when it was stored, to fold on from."""
    return restore_details(header, _decode_state)


def _apply(row: TimingsRow, event: FoldEvent) -> None:
    data, at = event.data, event.envelope.recorded_at
    if isinstance(data, ShardStarted):
        _start_shard(row, data)
    elif isinstance(data, ShardCompleted):
        _complete_shard(row, data, at)
    elif isinstance(data, ShardRetried):
        _wait_for_shard(row, data, at)
    elif isinstance(data, PhaseEntered):
        _end_phase(row, at)
        attempt = 0 if row.state.attempt is None else row.state.attempt.attempt
        row.state.phase = _begin(row, PHASES, Span(0, attempt, name=data.phase, started_at=at))
    elif isinstance(data, Asked):
        due = data.enqueued_at if data.not_before is None else max(data.not_before, data.enqueued_at)
        row.state.queued_at = timestamp(due)
    elif isinstance(data, Released):
        # promoted before it was due, or due since then and only noticed now
        row.state.queued_at = at if row.state.queued_at is None else min(at, row.state.queued_at)
    elif isinstance(data, Started):
        _start_attempt(row, data)
    elif isinstance(data, AttemptFailed):
        _end_attempt(row, at)
        row.state.queued_at = at if data.retry_at is None else timestamp(data.retry_at)
    elif isinstance(data, Completed | Failed | Aborted):
        _end_attempt(row, timestamp(data.finished_at))


def _start_attempt(row: TimingsRow, event: Started) -> None:
    at = timestamp(event.started_at)
    _end_attempt(row, at)
    if event.attempt > 1 and (row.state.shards or row.state.completed):
        row.forget([SHARDS], count=len(row.state.shards) + len(row.state.completed))
        row.state.shards, row.state.completed = {}, {}
    span = Span(0, event.attempt, worker=event.worker, queued_at=row.state.queued_at, started_at=at)
    row.state.attempt = _begin(row, ATTEMPTS, span)


def _end_attempt(row: TimingsRow, at: str) -> None:
    _end_phase(row, at)
    if row.state.attempt is not None:
        row.change(*_values(ATTEMPTS, row.state.attempt, at))
        row.state.attempt = None


def _end_phase(row: TimingsRow, at: str) -> None:
    if row.state.phase is not None:
        row.change(*_values(PHASES, row.state.phase, at))
        row.state.phase = None


def _begin(row: TimingsRow, part: int, span: Span) -> Span:
    span.number = row.state.next_number
    row.state.next_number += 1
    row.add(*_values(part, span, None))
    return span


def _start_shard(row: TimingsRow, event: ShardStarted) -> None:
    known = _shard(row, event.shard, event.shard_attempt)
    if known is not None:
        known.worker, known.started_at = event.worker, timestamp(event.started_at)
        row.change(*_values(SHARDS, known, None))


def _wait_for_shard(row: TimingsRow, event: ShardRetried, at: str) -> None:
    known = _shard(row, event.shard, event.shard_attempt)
    if known is not None:
        known.queued_at = at if event.retry_at is None else timestamp(event.retry_at)
        row.change(*_values(SHARDS, known, None))


def _complete_shard(row: TimingsRow, event: ShardCompleted, at: str) -> None:
    known = None if event.shard is None else _shard(row, event.shard, event.shard_attempt)
    if known is None:
        return
    if known.started_at is None and row.state.attempt is not None:
        known.started_at = known.queued_at or row.state.attempt.started_at
    row.change(*_values(SHARDS, known, at))
    row.state.completed[known.number] = known.attempt
    del row.state.shards[known.number]


def _shard(row: TimingsRow, number: int, attempt: int) -> Span | None:
    """Give a shard that is not completed, at an attempt; a newer one takes the place of what was there."""
    shards, completed = row.state.shards, row.state.completed
    known = shards.get(number)
    newest = completed.get(number, 0) if known is None else known.attempt
    if attempt > newest:
        put = row.add if newest == 0 else row.change
        completed.pop(number, None)
        known = shards[number] = Span(number, attempt)
        put(*_values(SHARDS, known, None))
    return known if known is not None and attempt == known.attempt else None


def _values(part: int, span: Span, finished_at: str | None) -> Detail:
    return (
        span.number, part, span.attempt, span.name, span.worker, span.queued_at, span.started_at, finished_at,
    )  # fmt: skip


# --- what is read -------------------------------------------------------------------------------------------


class _Read(NamedTuple):
    """The columns of a row."""

    number: int
    part: int
    attempt: int
    name: str | None
    worker: str | None
    queued_at: str | None
    started_at: str | None
    finished_at: str | None


def timings_of(run_id: str, rows: Sequence[Detail]) -> RunTimings:
    """Give the rows of a run, in the order of their numbers, as timings."""
    made = RunTimings(run_id=run_id, attempts=[], phases=[], shards=[])
    for row in map(_Read._make, rows):
        if row.part == PHASES:
            made.phases.append(_phase(row))
        elif row.part == ATTEMPTS:
            made.attempts.append(_attempt(row))
        else:
            made.shards.append(_shard_timing(row))
    return made


def _attempt(row: _Read) -> AttemptTiming:
    return AttemptTiming(
        attempt=row.attempt,
        worker=row.worker,
        queued_at=_moment(row.queued_at),
        started_at=_moment(row.started_at),
        finished_at=_moment(row.finished_at),
        queued_ms=_milliseconds(row.queued_at, row.started_at),
        duration_ms=_milliseconds(row.started_at, row.finished_at),
    )


def _phase(row: _Read) -> PhaseTiming:
    return PhaseTiming(
        phase=row.name or "",
        attempt=row.attempt,
        started_at=_moment(row.started_at),
        finished_at=_moment(row.finished_at),
        duration_ms=_milliseconds(row.started_at, row.finished_at),
    )


def _shard_timing(row: _Read) -> ShardTiming:
    return ShardTiming(
        shard=row.number,
        attempt=row.attempt,
        worker=row.worker,
        queued_at=_moment(row.queued_at),
        started_at=_moment(row.started_at),
        finished_at=_moment(row.finished_at),
        queued_ms=_milliseconds(row.queued_at, row.started_at),
        duration_ms=_milliseconds(row.started_at, row.finished_at),
    )


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _milliseconds(start: str | None, end: str | None) -> int | None:
    """Give a length; 0 when a clock went back in between."""
    begun, ended = _moment(start), _moment(end)
    if begun is None or ended is None:
        return None
    return max(0, (ended - begun) // timedelta(milliseconds=1))
