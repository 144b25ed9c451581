"""Claims, heartbeats and sweeps: how workers come to their work, and what becomes of work whose worker is gone.

A claim appends the event that takes a task (`started`, `shard_started`, `finalization_started`) and lends the task in
the same transaction. Heartbeats move deadlines and are no events. A sweep settles leases whose deadline passed, on
what the log says at that moment and with the run's lock held: a lease that was renewed, or a run that somebody else
went on with, is left alone. Any number of processes may sweep.
"""

import random
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from ledger import limits
from ledger.clock import Clock
from ledger.decider import ReadsRun, StateCache, load
from ledger.envelope import SALT_BYTES, commitment
from ledger.events import RecordedEvent, RunId, join_page
from ledger.ids import new_event_ids, new_run_id, new_salts
from ledger.run.codec import RecordedRunEvent, decode_page, timestamp
from ledger.run.commands import within_limits
from ledger.run.events import (
    Aborted,
    Enqueued,
    FinalizationStarted,
    Released,
    RunEvent,
    ShardResultAppended,
    ShardRetried,
    ShardStarted,
    Started,
    type_of,
)
from ledger.run.leases import Lease, Purpose
from ledger.run.state import RunState, apply_all, fold, initial
from ledger.run.values import JsonObject
from ledger.run.work import decide_lost, decide_overdue_abort, planned_skips
from ledger.store import Appended, AppendRequest, Condition, Store, exactly
from ledger.tasks import Claimable, Lent, Settling, StartedTemplate, Task

MakeRequest = Callable[[RunId, Sequence[RunEvent], Condition], AppendRequest]


class Heartbeat(msgspec.Struct, frozen=True):
    """What a worker hears back for one of its leases.

    Attributes:
        run_id: The run.
        shard: The lease's shard.
        is_held: Whether the lease is still this worker's; if not, it stops at once and writes nothing more.
        deadline: Until when it is held now; None when it is not.
        abort_requested: Whether somebody asked the run's workers to stop.
    """

    run_id: RunId
    shard: int | None
    is_held: bool
    deadline: datetime | None
    abort_requested: bool


class Swept(msgspec.Struct, frozen=True):
    """What a sweep did about one task.

    Attributes:
        run_id: The run.
        shard: The shard whose lease was over; None for the run's own.
        worker: Who held it.
        events: Types of the events that were appended; empty when it was only offered to others.
    """

    run_id: RunId
    shard: int | None
    worker: str | None
    events: tuple[str, ...]


def claim(
    store: Store,
    *,
    worker: str,
    kinds: Sequence[str] | None,
    limit: int,
    lease_s: float,
    clock: Clock,
    cache: StateCache,
    make_request: MakeRequest,
) -> list[Lease]:
    """Take what may be done now; see `Ledger.claim`."""
    now = clock()
    lent = store.tasks.lend_runs(
        kinds=kinds, limit=limit, lease_s=lease_s, worker=worker, started=_template(worker, limit, now, make_request)
    )
    if lent is not None:
        return [_lent_lease(one, worker=worker, now=now, cache=cache) for one in lent]
    with store.tasks.claiming(kinds=kinds, limit=limit, lease_s=lease_s) as claiming:
        if not claiming.tasks:
            return []
        # what the tasks of one run append stands one after the other
        versions = {task.run_id: task.version for task in claiming.tasks}
        begun = {task.run_id for task in claiming.tasks if task.is_started}
        requests, leases = [], []
        for task in claiming.tasks:
            events = _taking(task, worker=worker, now=now, is_started=task.run_id in begun)
            version = versions[task.run_id]
            requests.append(make_request(task.run_id, events, exactly(version)))
            versions[task.run_id] = version + len(events)
            begun.add(task.run_id)
            leases.append(_lease(task, worker=worker, version=versions[task.run_id], deadline=now))
        deadline, places = claiming.take(requests, [task.shard for task in claiming.tasks])
    _remember(cache, claiming.tasks, requests, places)
    return [msgspec.structs.replace(lease, deadline=deadline) for lease in leases]


_UNKNOWN_ATTEMPT = 987_654_321


def _template(worker: str, count: int, now: datetime, make_request: MakeRequest) -> StartedTemplate:
    """Make the bytes of `started` once, around what the store will put in: random ids stand there till then."""
    run_id = new_run_id()
    started = Started(attempt=_UNKNOWN_ATTEMPT, started_at=now, worker=worker)
    [event] = make_request(run_id, [started], exactly(0)).events
    before, _, after = event.payload.decode().partition(str(_UNKNOWN_ATTEMPT))
    to_commitment, _, rest = event.envelope.decode().partition(commitment(event.salt, event.payload))
    to_event, _, rest = rest.partition(event.event_id)
    to_run, _, end = rest.partition(run_id)
    return StartedTemplate(
        new_event_ids(count),
        new_salts(count, size_bytes=SALT_BYTES),
        (before, after),
        (to_commitment, to_event, to_run, end),
    )


def _lent_lease(lent: Lent, *, worker: str, now: datetime, cache: StateCache) -> Lease:
    first = decode_page(lent.first.events)[0]
    asked = first.data
    assert isinstance(asked, Enqueued), "a run with tasks was enqueued"
    if lent.version == 2 and lent.attempt == 1:
        started = Started(attempt=1, started_at=now, worker=worker)
        envelope = msgspec.structs.replace(first.envelope, type="started", recorded_at=timestamp(now))
        state = initial(lent.run_id)
        apply_all(state, [first, RecordedEvent(lent.position, 2, envelope, started)])
        cache.put(lent.run_id, state)
    return Lease(
        run_id=lent.run_id,
        kind=asked.kind,
        project=asked.project,
        attempt=lent.attempt,
        token=lent.version,
        worker=worker,
        deadline=lent.deadline,
        input=asked.input,
        plan=_planned(asked.plan, None),
        policy=asked.policy,
        traceparent=first.traceparent,
        available_at=_available_at(asked) if lent.attempt == 1 else None,
    )


def _taking(task: Claimable, *, worker: str, now: datetime, is_started: bool) -> list[RunEvent]:
    """Give the events that take a task; the first shard that is taken starts its run."""
    if task.is_finalizing:
        return [FinalizationStarted(worker=worker)]
    released: list[RunEvent] = [Released()] if task.is_scheduled and not is_started else []
    attempt = task.run_attempt + 1
    if task.shard is None:
        return [*released, Started(attempt=attempt, started_at=now, worker=worker)]
    taken = ShardStarted(shard=task.shard, shard_attempt=task.attempt, started_at=now, worker=worker)
    if is_started:
        return [taken]
    return [*released, Started(attempt=attempt, started_at=now, worker=worker, by_shard=True), taken]


def _lease(task: Claimable, *, worker: str, version: int, deadline: datetime) -> Lease:
    first = decode_page(task.first.events)[0]
    asked = first.data
    assert isinstance(asked, Enqueued), "a run with tasks was enqueued"
    purpose = Purpose.FINALIZE if task.is_finalizing else Purpose.RUN if task.shard is None else Purpose.SHARD
    attempt = task.attempt if purpose is Purpose.SHARD else task.run_attempt + (purpose is Purpose.RUN)
    is_first = attempt == 1 and task.run_attempt <= 1 and purpose is not Purpose.FINALIZE
    return Lease(
        run_id=task.run_id,
        kind=asked.kind,
        project=asked.project,
        purpose=purpose,
        shard=task.shard,
        attempt=attempt,
        token=task.attempt if purpose is Purpose.SHARD else version,
        worker=worker,
        deadline=deadline,
        input=asked.input,
        plan=_planned(asked.plan, task.shard),
        policy=asked.policy,
        traceparent=first.traceparent,
        available_at=_available_at(asked) if is_first else None,
    )


def _available_at(asked: Enqueued) -> datetime:
    return asked.enqueued_at if asked.not_before is None else max(asked.enqueued_at, asked.not_before)


def _remember(
    cache: StateCache, tasks: Sequence[Claimable], requests: Sequence[AppendRequest], places: Sequence[Appended]
) -> None:
    """Keep the states of runs of which all that there is is known now: who holds them need not read them."""
    states: dict[RunId, RunState] = {}
    for task, request, place in zip(tasks, requests, places, strict=True):
        if task.version == 1:
            known = states.get(task.run_id) or fold(initial(task.run_id), decode_page(task.first.events))
            states[task.run_id] = fold(known, _as_read(request, place))
    for run_id, state in states.items():
        cache.put(run_id, state)


def _as_read(request: AppendRequest, place: Appended) -> list[RecordedRunEvent]:
    """Give an append's events as the log has them, without asking it."""
    first = place.version - len(request.events) + 1
    rows = [
        (position, version, event.envelope, event.payload)
        for version, (position, event) in enumerate(zip(place.positions, request.events, strict=True), first)
    ]
    return decode_page(join_page(rows))


class PlannedSkips:
    """Results of the planned tests of a run that never ran, as of a version of its stream.

    Args:
        reader: Reads the stream.
        run_id: The run.
    """

    def __init__(self, reader: ReadsRun, run_id: RunId) -> None:
        self._reader = reader
        self._run_id = run_id
        self._version = 0
        self._plan: list[list[str]] = []
        self._seen: dict[int | None, tuple[int, set[str]]] = {}  # by shard: its attempt, and the tests it ran
        self._left_out: set[str] = set()

    def of(self, run: RunState) -> list[JsonObject]:
        """Give them as of the version that this state is folded to; empty when nobody planned."""
        if not run.has_plan or run.closed_version:
            return []
        while self._version < run.version:
            page = self._reader.read_run(self._run_id, after_version=self._version, limit=limits.PAGE_EVENTS)
            for event in decode_page(page.events):
                if event.version > run.version:
                    break
                self._note(event.data)
                self._version = event.version
        ran = self._left_out.union(*[tests for _, tests in self._seen.values()])
        return planned_skips(self._plan, ran)

    def _note(self, event: RunEvent | None) -> None:
        match event:
            case Enqueued():
                self._plan = event.plan
            case Started(attempt=attempt) if attempt > 1:
                self._seen.clear()
            case ShardRetried():
                self._seen[event.shard] = event.shard_attempt, set()
            case ShardResultAppended():
                attempt, tests = self._seen.get(event.shard, (event.shard_attempt, set()))
                if event.shard_attempt >= attempt:
                    tests = tests if event.shard_attempt == attempt else set()
                    tests.update(str(result.get("testId")) for result in event.results)
                    self._seen[event.shard] = event.shard_attempt, tests
                self._left_out.update(
                    str(result.get("testId")) for result in event.results if result.get("skipReason") is not None
                )
            case _:
                pass


def _planned(plan: Sequence[Sequence[str]], shard: int | None) -> list[str]:
    if shard is not None:
        return list(plan[shard]) if shard < len(plan) else []
    return [test_id for ids in plan for test_id in ids]


def renew(store: Store, leases: Sequence[Lease], *, lease_s: float) -> list[Heartbeat]:
    """Renew leases; see `Ledger.heartbeat`."""
    return [
        Heartbeat(lease.run_id, lease.shard, renewal.is_held, renewal.deadline, renewal.abort_requested)
        for lease, renewal in zip(leases, store.tasks.renew(leases, lease_s=lease_s), strict=True)
    ]


def look(store: Store, leases: Sequence[Lease]) -> list[Heartbeat]:
    """Look after leases without renewing them; see `Ledger.look`."""
    return [
        Heartbeat(lease.run_id, lease.shard, seen.is_held, seen.deadline, seen.abort_requested)
        for lease, seen in zip(leases, store.tasks.look(leases), strict=True)
    ]


def sweep(store: Store, *, limit: int, clock: Clock, make_request: MakeRequest) -> list[Swept]:
    """Settle leases that are over; see `Ledger.sweep`."""
    cache = StateCache()  # of this sweep alone: what it appends may yet be rolled back
    with store.tasks.settling(limit=limit) as settling:
        return [
            swept
            for task in settling.tasks
            if (swept := _settle(settling, task, now=clock(), cache=cache, make_request=make_request)) is not None
        ]


def _settle(
    settling: Settling, task: Task, *, now: datetime, cache: StateCache, make_request: MakeRequest
) -> Swept | None:
    run = load(settling, task.run_id, cache)
    events = _settling(run, task, now=now)
    if not events:
        if not task.is_overdue or task.purpose is not Purpose.FINALIZE:
            return None
        settling.put_back(task)
        return Swept(task.run_id, task.shard, task.worker, ())
    events = [written for event in events for written in _with_skips(event, settling, run)]
    settling.append(make_request(task.run_id, events, exactly(run.version)))
    return Swept(task.run_id, task.shard, task.worker, tuple(type_of(event) for event in events))


def _with_skips(event: RunEvent, settling: Settling, run: RunState) -> list[RunEvent]:
    """Let an abort count the planned tests that never ran."""
    if not isinstance(event, Aborted) or not run.has_plan:
        return [event]
    skipped = PlannedSkips(settling, RunId(run.run_id)).of(run)
    return within_limits(msgspec.structs.replace(event, skipped=skipped))


def _settling(run: RunState, task: Task, *, now: datetime) -> list[RunEvent]:
    if not task.is_overdue or task.deadline is None or task.worker is None or task.token is None:
        return decide_overdue_abort(run, now=now)
    lease = Lease(
        run_id=task.run_id,
        kind=task.kind,
        purpose=task.purpose,
        shard=task.shard,
        attempt=task.attempt,
        token=task.token,
        worker=task.worker,
        deadline=task.deadline,
    )
    return decide_lost(run, lease, now=now, fraction=random.random())
