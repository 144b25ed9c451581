"""What a run is: the fold of its events.

`evolve` is total: it takes every event in every order and never raises, because history is what it is. The rules
about what may happen are in `commands.py` and guard the way in. A second terminal event, work on a finished run or a
late result of an old attempt cannot get into the log through them; were one there, the fold would ignore it.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, TypeVar, assert_never

import msgspec

from ledger import limits
from ledger.conversion import converter
from ledger.run.codec import RecordedRunEvent
from ledger.run.events import (
    Aborted,
    AbortRequested,
    Annotated,
    ArtifactRecorded,
    AttemptFailed,
    Completed,
    Deleted,
    DocumentRecorded,
    Enqueued,
    Failed,
    FinalizationStarted,
    GateFinished,
    Interrupted,
    LogAppended,
    PhaseEntered,
    Purged,
    Released,
    Restored,
    Resumed,
    RunEvent,
    ShardCompleted,
    ShardResultAppended,
    ShardRetried,
    ShardStarted,
    Skeleton,
    Started,
    StatsIncremented,
    VersionResolved,
    WriteRejected,
)
from ledger.run.values import (
    DEFAULT_POLICY,
    PASSED_RESULTS,
    SKIPPED_RESULTS,
    GateOutcome,
    JsonObject,
    Policy,
    Status,
    Verdict,
)

_DISPATCH_SKIPS: Final = ("over_budget", "skipped_no_impact")
"""Skip reasons of tests that were left out before dispatch: they survive every retry (Sentri's contract). A tuple, for
a reason may be any JSON, and a set would have to hash it."""

_AFTERWARDS: Final = (
    LogAppended,
    ArtifactRecorded,
    DocumentRecorded,
    Annotated,
    WriteRejected,
    Deleted,
    Restored,
    Purged,
)
"""What may still happen to a finished run."""

_NOT_FAILED: Final = PASSED_RESULTS | SKIPPED_RESULTS

_NO_STATUS: Final = "unknown"
"""How a result is counted whose status is no text: as failed, like every word that is not known to be good."""


_Result = TypeVar("_Result")


class Run(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """A run as lists show it: small, whatever the run has done.

    Attributes:
        version: Of its stream, up to which this is folded.
        position: In the log, of its latest event.
        passed: Results that count as passed; of the anonymous counters once those are used.
        total: Expected results where the run said so, else the results so far.
        statuses: How many results have each status, in the words of the results.
        closed_version: Version of its terminal event; 0 while it is active.
        purged_at: When the last of its data was erased.
        purged_version: Version of the event before which its data is erased, or being erased while `purged_at` is None;
            0 before. In a run as of an earlier moment, a later version than its own: only its remains are told.
        updated_at: When its latest event was recorded.
    """

    run_id: str
    kind: str = ""
    project: str | None = None
    status: Status = Status.QUEUED
    verdict: Verdict = Verdict.NONE
    phase: str | None = None
    attempt: int = 0
    attempts_max: int = 1
    labels: dict[str, str] = {}
    priority: int = 0
    worker: str | None = None
    shard_count: int | None = None
    shards_completed: int = 0
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    total: int = 0
    statuses: dict[str, int] = {}
    artifact_count: int = 0
    log_line_count: int = 0
    error: str | None = None
    error_category: str | None = None
    failure_summary: str | None = None
    output_ref: str | None = None
    resolved_version: str | None = None
    idempotency_key: str | None = None
    exclusive_key: str | None = None
    parent_run_id: str | None = None
    retry_of: str | None = None
    created_at: datetime | None = None
    not_before: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    duration_ms: int | None = None
    updated_at: datetime | None = None
    abort_requested_at: datetime | None = None
    deleted_at: datetime | None = None
    purged_at: datetime | None = None
    version: int = 0
    position: int = 0
    closed_version: int = 0
    purged_version: int = 0

    @property
    def id(self) -> str:
        return self.run_id

    @property
    def is_terminal(self) -> bool:
        return self.status.is_terminal


class Tally(msgspec.Struct, omit_defaults=True, gc=False):
    """Results of one part of a run.

    Attributes:
        statuses: How many have each status.
        next_sequence: The sequence number after the largest one seen.
        gaps: Stretches below it, first number and the one after the last, that were never seen; in order. There are
            none unless batches overtake each other.
    """

    statuses: dict[str, int] = {}
    next_sequence: int = 0
    gaps: list[tuple[int, int]] = []


class Shard(msgspec.Struct, omit_defaults=True, gc=False):
    """One slice of a run, at its newest attempt.

    Attributes:
        worker: Who took it.
        uncounted: How many of its attempts do not count against the allowed ones.
        error: Why it could not do its work, when it is completed without having done it.
    """

    attempt: int = 1
    worker: str | None = None
    uncounted: int = 0
    error: str | None = None
    is_completed: bool = False
    exit_code: int | None = None
    results: Tally = msgspec.field(default_factory=Tally)


class Gate(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A gate's latest outcome."""

    gate: str
    outcome: GateOutcome
    summary: str | None = None
    log_ref: str | None = None
    version: int = 0


class RunState(Run, kw_only=True, omit_defaults=True):
    """A run with everything that decisions and further folding need.

    Attributes:
        shards: By their number, those of which anything is known.
        unsharded: Results of no shard.
        left_out: Results of tests that were left out before dispatch.
        stats_passed: The anonymous counter; `stats_failed` likewise. `stats_used`: whether they ever moved.
        gates: By their name.
        phases: The order of phases that the kind declared.
        taken_version: Version of the latest `started` or `resumed`; 0 before.
        finalizer: Who finalizes, since `finalization_started`; `finalizer_version` is that event's.
        uncounted_attempts: How many attempts do not count against the allowed ones.
        failed_shards: How many shards are completed without having done their work.
        policy: What happens when work is lost or fails.
        has_plan: Whether the tests of the shards were fixed when the run was asked for.
    """

    shards: dict[int, Shard] = {}
    keyed_completions: int = 0
    anonymous_completions: int = 0
    unsharded: Tally = msgspec.field(default_factory=Tally)
    left_out: Tally = msgspec.field(default_factory=Tally)
    stats_passed: int = 0
    stats_failed: int = 0
    stats_used: bool = False
    expected_total: int | None = None
    total_delta: int = 0
    gates: dict[str, Gate] = {}
    phases: list[str] = []
    failed_verdict_fails: bool = False
    taken_version: int = 0
    finalizer: str | None = None
    finalizer_version: int = 0
    uncounted_attempts: int = 0
    failed_shards: int = 0
    policy: Policy = DEFAULT_POLICY
    has_plan: bool = False

    @property
    def shards_cap(self) -> int:
        """How many shards can complete: 1 when the run is not cut."""
        return 1 if self.shard_count is None else self.shard_count

    @property
    def counted_passed(self) -> int:
        """How many results over all parts count as passed."""
        return sum([count for status, count in self.statuses.items() if status in PASSED_RESULTS])

    @property
    def counted_failed(self) -> int:
        """How many results over all parts count as failed: every word that is not known to be good."""
        return sum([count for status, count in self.statuses.items() if status not in _NOT_FAILED])


_RUN_FIELDS: Final = Run.__struct_fields__


def as_run(state: RunState) -> Run:
    """Give the small part of a state."""
    return Run(**{name: getattr(state, name) for name in _RUN_FIELDS})


def initial(run_id: str) -> RunState:
    """Give the state of a run of which no event is known: version 0."""
    return RunState(run_id=run_id)


_as_state: Final = converter(RunState)


def copy(state: RunState) -> RunState:
    """Copy a state so that folding on leaves the original alone."""
    return _as_state(msgspec.to_builtins(state))


def evolve(state: RunState, event: RecordedRunEvent) -> RunState:
    """Give the state after one more event; the given state stays as it is."""
    return fold(state, [event])


def fold(state: RunState, events: Iterable[RecordedRunEvent]) -> RunState:
    """Give the state after more events; the given state stays as it is."""
    folded = copy(state)
    apply_all(folded, events)
    return folded


def apply(state: RunState, event: RecordedRunEvent) -> None:
    """Fold one event into a state that the caller owns: what `evolve` does, without the copy."""
    apply_all(state, (event,))


def apply_all(state: RunState, events: Iterable[RecordedRunEvent]) -> None:
    """Fold events into a state that the caller owns: what `fold` does, without the copy.

    Projections fold millions of events; measured, a copy an event would be most of their work, and the figures, which
    follow from the counts, a third of the rest if they were set after each event.
    """
    event = None
    for event in events:
        data = event.data
        if data is None:  # the payload of a purged run is gone; what its rows said goes with it
            continue
        if state.closed_version and not isinstance(data, Purged if state.purged_version else _AFTERWARDS):
            continue
        if isinstance(data, ShardResultAppended):  # nearly every event of a run; spares the matching
            _append_results(state, data)
        else:
            _apply(state, data, event)
    if event is not None:
        state.version = event.version
        state.position = event.position
        state.updated_at = event.recorded_at
        if not state.purged_version:  # what the figures followed from is gone
            _set_figures(state)


def _apply(state: RunState, event: RunEvent, recorded: RecordedRunEvent) -> None:  # noqa: C901 - one arm an event
    version = recorded.version
    match event:
        case ShardResultAppended():
            _append_results(state, event)
        case LogAppended():
            state.log_line_count += len(event.lines)
        case StatsIncremented():
            state.stats_passed = _safe(state.stats_passed + event.passed)
            state.stats_failed = _safe(state.stats_failed + event.failed)
            state.total_delta = _safe(state.total_delta + event.total)
            state.stats_used = state.stats_used or bool(event.passed or event.failed)
        case ShardCompleted():
            _complete_shard(state, event)
        case Enqueued():
            _enqueue(state, event)
        case Started():
            if event.attempt > 1:
                _discard_attempt(state)
            _run(state, event.worker, version)
            state.attempt = event.attempt
            state.started_at = state.started_at or event.started_at
        case Resumed():
            _run(state, event.worker, version)
        case Completed():
            _close(state, Status.COMPLETED, version, event)
            state.output_ref = event.output_ref
            state.error = state.error_category = None
        case Failed():
            _close(state, Status.FAILED, version, event)
            state.error = event.error
            state.error_category = event.error_category
            state.failure_summary = event.failure_summary
        case Aborted():
            _close(state, Status.ABORTED, version, event)
            state.error = event.reason
            state.error_category = event.mode
            _tally(state, state.unsharded, event.skipped)
        case PhaseEntered():
            state.phase = event.phase
        case VersionResolved():
            state.resolved_version = event.resolved_version
        case GateFinished():
            gate = Gate(event.gate, event.outcome, event.summary, event.log_ref, version)
            state.gates = {**state.gates, event.gate: gate}
        case ShardStarted():
            shard = _shard_at(state, event.shard, event.shard_attempt)
            if shard is not None:
                shard.worker = event.worker
        case ShardRetried():
            shard = _shard_at(state, event.shard, event.shard_attempt)
            if shard is not None:
                shard.uncounted += not event.is_counted
        case ArtifactRecorded():
            state.artifact_count += 1
        case DocumentRecorded():
            pass  # heavy, and no rule looks at it; the projection `documents` keeps it
        case Annotated():
            state.labels = _relabelled(state.labels, event.labels)
        case Released():
            state.status = Status.QUEUED
        case AttemptFailed():
            state.status = Status.QUEUED if event.retry_at is None else Status.SCHEDULED
            state.not_before = event.retry_at
            state.error, state.error_category = event.error, event.error_category
            state.worker = None
            state.uncounted_attempts += not event.is_counted
        case Interrupted():
            state.status = Status.INTERRUPTED
            state.error, state.error_category = event.reason, "interrupted"
            state.worker = None
        case AbortRequested():
            state.abort_requested_at = state.abort_requested_at or recorded.recorded_at
        case FinalizationStarted():
            state.finalizer, state.finalizer_version = event.worker, version
        case WriteRejected():
            pass
        case Deleted():
            state.deleted_at = event.deleted_at
        case Restored():
            state.deleted_at = None
        case Purged():
            _purge(state, event, recorded)
        case _:
            assert_never(event)


def _enqueue(state: RunState, event: Enqueued) -> None:
    is_later = event.not_before is not None and event.not_before > event.enqueued_at
    state.status = Status.SCHEDULED if is_later else Status.QUEUED
    state.kind = event.kind
    state.project = event.project
    state.labels = event.labels
    state.priority = event.priority
    state.shard_count = event.shard_count
    state.attempts_max = event.attempts_max
    state.idempotency_key = event.idempotency_key
    state.exclusive_key = event.exclusive_key
    state.parent_run_id = event.parent_run_id
    state.retry_of = event.retry_of
    state.created_at = event.enqueued_at
    state.not_before = event.not_before
    state.phases = event.phases
    state.failed_verdict_fails = event.failed_verdict_fails
    state.expected_total = event.total
    state.policy = event.policy
    state.has_plan = bool(event.plan)


def _relabelled(labels: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """Give labels after changes. A full run takes no new name until one of its names is removed.

    The append asks nobody how many there are, since annotations commute; so the fold decides, alike for every reader.
    """
    changed = {name: value for name, value in labels.items() if changes.get(name, value) is not None}
    for name, value in sorted(changes.items()):
        if value is not None and (name in changed or len(changed) < limits.LABELS_MAX):
            changed[name] = value
    return dict(sorted(changed.items()))


def _run(state: RunState, worker: str, version: int) -> None:
    state.taken_version = version
    state.status = Status.RUNNING
    state.worker = worker
    state.error = state.error_category = None


def _close(state: RunState, status: Status, version: int, event: Completed | Failed | Aborted) -> None:
    state.status = status
    state.closed_version = version
    state.finished_at = event.finished_at
    state.duration_ms = event.duration_ms
    if event.duration_ms is None and state.started_at is not None:
        state.duration_ms = max(0, (event.finished_at - state.started_at) // timedelta(milliseconds=1))


def _purge(state: RunState, event: Purged, recorded: RecordedRunEvent) -> None:
    """Become what the event says and nothing else, so that it makes no difference what of the past is still there."""
    left = RunState(run_id=state.run_id, purged_version=recorded.version, **msgspec.structs.asdict(event.skeleton))
    left.closed_version = left.closed_version or recorded.version
    left.purged_at = recorded.recorded_at if event.is_whole else None
    for name in RunState.__struct_fields__:
        setattr(state, name, getattr(left, name))


def skeleton(run: Run, *, deleted_at: datetime) -> Skeleton:
    """Give what stays of a run when it is purged.

    Args:
        run: The run.
        deleted_at: When it went to the recycle bin; a run that never was there is gone from lists all the same.
    """
    facts = {name: getattr(run, name) for name in Skeleton.__struct_fields__}
    return Skeleton(**{**facts, "deleted_at": run.deleted_at or deleted_at})


def _append_results(state: RunState, event: ShardResultAppended) -> None:
    results, first = event.results, event.first_sequence
    if event.shard is None:
        results = unseen(state.unsharded, results, first=first)
        left_out = [result for result in results if is_left_out(result)]
        if left_out:
            results = [result for result in results if not is_left_out(result)]
            _tally(state, state.left_out, left_out)
        _tally(state, state.unsharded, results)
        return
    shard = state.shards.get(event.shard)
    if shard is None or shard.attempt != event.shard_attempt:
        shard = _shard_at(state, event.shard, event.shard_attempt)
    if shard is None:
        return
    tally = shard.results
    if first is not None:
        if first == tally.next_sequence:
            tally.next_sequence = first + len(results)
        else:
            results = unseen(tally, results, first=first)
    _tally(state, tally, results)


def unseen(tally: Tally, results: list[_Result], *, first: int | None) -> list[_Result]:
    """Give those results of a batch whose sequence numbers were not seen before, and note that they are now.

    Args:
        tally: Of the part of the run that they are of.
        results: In the order of their numbers.
        first: The first one's number; None when they have none, and each counts.
    """
    if first is None:
        return results
    end, start = first + len(results), tally.next_sequence
    if first == start:
        tally.next_sequence = end
        return results
    filled = _fill_gaps(tally, first, end) if first < start and tally.gaps else []
    if end > start:
        if first > start:
            tally.gaps = [*tally.gaps, (start, first)]
        tally.next_sequence = end
        filled.append((max(first, start), end))
    if filled == [(first, end)]:
        return results
    return [result for start, stop in filled for result in results[start - first : stop - first]]


def _fill_gaps(tally: Tally, first: int, end: int) -> list[tuple[int, int]]:
    """Take the numbers from `first` to before `end` out of the gaps, and give the stretches that were in them."""
    filled, left = [], []
    for low, high in tally.gaps:
        start, stop = max(low, first), min(high, end)
        if start >= stop:
            left.append((low, high))
            continue
        filled.append((start, stop))
        left += [gap for gap in ((low, start), (stop, high)) if gap[0] < gap[1]]
    tally.gaps = left
    return filled


def is_left_out(result: JsonObject) -> bool:
    """Tell whether a result of no shard is of a test that was left out before dispatch: it survives every retry."""
    return result.get("status") == "skipped" and result.get("skipReason") in _DISPATCH_SKIPS


def _complete_shard(state: RunState, event: ShardCompleted) -> None:
    if event.shard is None:
        state.anonymous_completions += 1
    else:
        shard = _shard_at(state, event.shard, event.shard_attempt)
        if shard is None or shard.is_completed:
            return
        shard.is_completed = True
        shard.exit_code = event.exit_code
        shard.error = event.error
        state.failed_shards += event.error is not None
        state.keyed_completions += 1


def _shard_at(state: RunState, number: int, attempt: int) -> Shard | None:
    """Give the shard at an attempt, a newer one taking the place of what was there; None for an older one."""
    shard = state.shards.get(number)
    if shard is None:
        shard = state.shards[number] = Shard(attempt=attempt)
    elif attempt > shard.attempt:
        _untally(state, shard.results)
        state.keyed_completions -= shard.is_completed
        state.failed_shards -= shard.error is not None
        shard = state.shards[number] = Shard(attempt=attempt, uncounted=shard.uncounted)
    return shard if attempt == shard.attempt else None


def _discard_attempt(state: RunState) -> None:
    """A run is tried anew: what its earlier attempt executed counts no more.

    Attempts of shards are numbered on: what was refused as that of an older attempt stays refused. They are counted
    anew.
    """
    for shard in state.shards.values():
        _untally(state, shard.results)
    _untally(state, state.unsharded)
    state.shards = {
        number: Shard(attempt=shard.attempt, uncounted=shard.attempt - 1)
        for number, shard in state.shards.items()
        if shard.attempt > 1
    }
    state.unsharded = Tally()
    state.keyed_completions = state.anonymous_completions = 0
    state.stats_passed = state.stats_failed = 0
    state.failed_shards = 0
    state.finalizer = None
    state.finalizer_version = 0


def _tally(state: RunState, tally: Tally, results: Sequence[JsonObject]) -> None:
    """Count results into one part of the run and into its sum."""
    of_part, of_run = tally.statuses, state.statuses
    for result in results:
        status = result.get("status")
        if not isinstance(status, str):
            status = _NO_STATUS
        of_part[status] = of_part.get(status, 0) + 1
        of_run[status] = of_run.get(status, 0) + 1


def _untally(state: RunState, tally: Tally) -> None:
    for status, count in tally.statuses.items():
        state.statuses[status] -= count
        if not state.statuses[status]:
            del state.statuses[status]


def _set_figures(state: RunState) -> None:
    passed = failed = skipped = 0
    for status, count in state.statuses.items():
        if status in PASSED_RESULTS:
            passed += count
        elif status in SKIPPED_RESULTS:
            skipped += count
        else:
            failed += count
    counted = passed + failed + skipped
    state.skipped = skipped
    state.total = _safe((counted if state.expected_total is None else state.expected_total) + state.total_delta)
    if state.stats_used:
        state.passed, state.failed = state.stats_passed, state.stats_failed
    else:
        state.passed, state.failed = passed, failed
    state.shards_completed = min(state.shards_cap, state.keyed_completions + state.anonymous_completions)
    state.verdict = _verdict(state)


def _safe(figure: int) -> int:
    """Stop at the largest integer that every reader keeps: many deltas may add up to more than one may hold."""
    if -limits.INTEGER_MAX <= figure <= limits.INTEGER_MAX:
        return figure
    return limits.INTEGER_MAX if figure > 0 else -limits.INTEGER_MAX


def _verdict(state: RunState) -> Verdict:
    if state.failed_shards:
        return Verdict.FAILED
    if not state.gates:
        return Verdict.FAILED if state.failed > 0 else Verdict.PASSED if state.passed > 0 else Verdict.NONE
    outcomes = {gate.outcome for gate in state.gates.values()}
    if state.failed > 0 or GateOutcome.FAILED in outcomes:
        return Verdict.FAILED
    if GateOutcome.BLOCKED in outcomes:
        return Verdict.BLOCKED
    if state.passed > 0 or outcomes:
        return Verdict.PASSED
    return Verdict.NONE


def failure_headline(state: RunState) -> str | None:
    """Say why a verdict is failed: the earliest gate that is red, else how many results failed."""
    red = [gate for gate in state.gates.values() if gate.outcome is GateOutcome.FAILED]
    if red:
        first = min(red, key=lambda gate: gate.version)
        return f"{first.gate}: {first.summary or 'gate failed'}"
    for number, shard in state.shards.items():
        if shard.error is not None:
            return f"shard {number}: {shard.error.strip().splitlines()[0]}"
    return f"{state.failed:,} of {state.total:,} results failed" if state.failed else None
