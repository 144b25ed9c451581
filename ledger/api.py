"""`Ledger`: one short method a command, and the reads.

Every method may be called from any thread. A command that returns has its events durably in the log; one that raises
wrote nothing, unless it raises `OutcomeUnknown`.
"""

import random
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import repeat
from types import TracebackType
from typing import Any, Final, Literal, Self

import msgspec

from ledger import limits, queue
from ledger.clock import Clock, utc_now
from ledger.consumer import Consumer, check_name, new_settings, start_after
from ledger.decider import Decide, Decision, StateCache, load, transact
from ledger.envelope import SALT_BYTES
from ledger.errors import (
    ConsumerDiffers,
    ConsumerNotFound,
    ExclusiveKeyTaken,
    IdempotencyMismatch,
    InvalidInput,
    LeaseLost,
    LedgerError,
    OutcomeUnknown,
    Refused,
    RunClosed,
    RunNotFound,
    RunTaken,
    ShardSuperseded,
    StoreBusy,
    VersionConflict,
)
from ledger.events import EventId, RunId, join_page
from ledger.facts import RunsFacts
from ledger.ids import derived_id, new_event_ids, new_run_id, new_salts
from ledger.queue import Heartbeat, PlannedSkips, Swept
from ledger.run import commands, work
from ledger.run.codec import (
    NO_CONTEXT,
    Context,
    RecordedRunEvent,
    check_event,
    decode,
    decode_joined,
    decode_page,
    encode_json,
    fingerprint,
    shard_fence,
    timestamp,
    to_new_events,
)
from ledger.run.events import (
    EVENT_TYPES,
    TERMINAL_EVENTS,
    Annotated,
    ArtifactRecorded,
    DocumentRecorded,
    Enqueued,
    LogAppended,
    Purged,
    RunEvent,
    ShardResultAppended,
    Started,
    StatsIncremented,
    WriteRejected,
    type_of,
)
from ledger.run.leases import Lease, Purpose
from ledger.run.profiles import Kind
from ledger.run.remains import remains
from ledger.run.state import RunState, fold, initial
from ledger.run.values import (
    GateOutcome,
    JsonObject,
    Status,
    check_integer,
    check_json,
    check_labels,
    check_lease_s,
    check_names,
    check_optional_text,
    check_results,
    check_text,
    check_time,
    check_traceparent,
    check_uuid,
    clean,
    cut,
    one_event_id,
)
from ledger.store import (
    ANY,
    EXISTS,
    NO_RUN,
    Appended,
    AppendRequest,
    Condition,
    KeyClaim,
    KeyTaken,
    Rule,
    Store,
    exactly,
    unless_closed,
)
from ledger.stuck import StuckTask, Why, gathered, waiting_since, why_waiting
from ledger.subscription import Subscription
from ledger.tasks import Task

_NAME = limits.NAME_CHARS_MAX
_TEXT = limits.TEXT_CHARS_MAX


class RunHandle(msgspec.Struct, frozen=True):
    """What `enqueue` gives back.

    Attributes:
        id: The run's id.
        is_new: False when an idempotency or exclusive key led to a run that was there already.
    """

    id: RunId
    is_new: bool = True


class Outcome(msgspec.Struct, frozen=True):
    """What became of a command that only one writer can win.

    Attributes:
        run_id: The run.
        won: Whether this caller's wish is what the log says; the truth value of the outcome.
        winner: The event that won: this caller's own, or the one that was first. None when the run was already as
            wished and nothing had to be written.
    """

    run_id: RunId
    won: bool
    winner: RecordedRunEvent | None

    def __bool__(self) -> bool:
        return self.won


class ShardOutcome(msgspec.Struct, frozen=True):
    """What became of completing a shard.

    Attributes:
        advanced: Whether this call completed it; False when it was complete already, or the run is closed.
        new_value: How many shards are complete now.
    """

    advanced: bool
    new_value: int

    def __bool__(self) -> bool:
        return self.advanced


class Ledger:
    """An open ledger: the log of every run's events.

    Args:
        store: Where the log is; closed with the ledger.
        kinds: What kinds of runs declare; a kind that is not among them declares nothing.
        context: Actor and trace of everything that is written through this object; see `bind`.
        clock: Tells the time, for tests.
    """

    def __init__(
        self,
        store: Store,
        *,
        kinds: Sequence[Kind] = (),
        context: Context = NO_CONTEXT,
        clock: Clock = utc_now,
    ) -> None:
        self.store = store
        self._kinds = {kind.name: kind for kind in kinds}
        self._context = context
        self._clock = clock
        self._lease: Lease | None = None
        self._expected_version: int | None = None
        self._cache = StateCache()
        self._shards_caps: dict[RunId, int] = {}
        self.facts = RunsFacts(store)
        self._subscriptions: weakref.WeakSet[Subscription] = weakref.WeakSet()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the ledger's connections. What was returned is durable; subscriptions end."""
        for subscription in list(self._subscriptions):
            subscription.close()
        self.store.close()

    def bind(
        self,
        *,
        actor: str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        traceparent: str | None = None,
    ) -> Self:
        """Give the same ledger, writing in somebody's name.

        Args:
            actor: Who acts, such as `ci@web` or a user's name; None keeps what is bound.
            correlation_id: What ties everything of one request together.
            causation_id: The event or message that led to what is written.
            traceparent: W3C trace context; an invalid one is ignored, as the standard says.

        Returns:
            A ledger that shares this one's connections; closing either closes both.
        """
        key = limits.KEY_CHARS_MAX
        bound = self._copy()
        bound._context = Context(
            actor=check_optional_text(actor, field="actor", chars_max=_NAME) or self._context.actor,
            correlation_id=check_optional_text(correlation_id, field="correlation_id", chars_max=key)
            or self._context.correlation_id,
            causation_id=check_optional_text(causation_id, field="causation_id", chars_max=key)
            or self._context.causation_id,
            traceparent=check_traceparent(traceparent) or self._context.traceparent,
        )
        return bound

    @property
    def traceparent(self) -> str | None:
        """The W3C trace context that what follows is written with."""
        return self._context.traceparent

    def expecting(self, version: int) -> Self:
        """Give the same ledger, deciding only on a run that is at this version; for whoever decides on what they saw.

        Its commands raise `VersionConflict` when the run has moved on. What is appended without a decision (results,
        logs, notes …) commutes and asks for no version.
        """
        bound = self._copy()
        bound._expected_version = check_integer(version, field="version", at_least=0)
        return bound

    # --- asking for a run ----------------------------------------------------------------------------------

    def enqueue(
        self,
        kind: str,
        *,
        project: str | None = None,
        input: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        shard_count: int | None = None,
        total: int | None = None,
        priority: int = 0,
        not_before: datetime | None = None,
        attempts_max: int | None = None,
        idempotency_key: str | None = None,
        exclusive_key: str | None = None,
        on_active: Literal["reject", "return", "supersede"] = "reject",
        parent_run_id: str | None = None,
        retry_of: str | None = None,
        plan: Sequence[Sequence[str]] = (),
        callback_url: str | None = None,
        worker: str | None = None,
        run_id: str | None = None,
    ) -> RunHandle:
        """Ask for a run.

        Args:
            kind: What kind of work, such as `test` or `script.pull`.
            project: Whose run it is; keys are apart between projects.
            input: What the run needs to know, as JSON; references to secrets, never secrets.
            labels: Names and values to find it by.
            shard_count: Into how many slices it is cut; None when it is not.
            total: How many results to expect; None when nobody knows.
            priority: The higher, the sooner it is claimed.
            not_before: When it may start at the earliest; in the future, the run is scheduled.
            attempts_max: How often it may be started; None takes what the kind declares.
            idempotency_key: The same key with the same facts gives the same run, for ever.
            exclusive_key: At most one active run holds it, such as `branch@repo`.
            on_active: What to do when an active run holds the exclusive key: `reject` with an error that names it,
                `return` that run, or `supersede` it (abort it, and make the new one).
            parent_run_id: The run that this one is a part of.
            retry_of: The finished run that this one repeats.
            plan: The ids of the tests of each shard, in order; an abort counts those that never ran as skipped.
            callback_url: Whom the daemon calls when the run has ended, however it did; http or https.
            worker: Start it at once for this worker, so that nobody else can claim it.
            run_id: A UUID of the caller's own making; None makes one.

        Raises:
            InvalidInput: when a fact cannot be stored; see `ledger.limits`.
            IdempotencyMismatch: when the key stands for other facts.
            ExclusiveKeyTaken: when an active run holds the exclusive key, and `on_active` is `reject`.
        """
        check_on_active(on_active)
        made_id, event = self._asked(
            kind,
            run_id,
            project=project,
            input=input,
            labels=labels,
            shard_count=shard_count,
            total=total,
            priority=priority,
            not_before=not_before,
            attempts_max=attempts_max,
            idempotency_key=idempotency_key,
            exclusive_key=exclusive_key,
            parent_run_id=parent_run_id,
            retry_of=retry_of,
            plan=plan,
            callback_url=callback_url,
        )
        return self._enqueue(made_id, event, on_active=on_active, worker=worker)

    def enqueue_all(
        self, asked: Sequence[Mapping[str, Any]], *, by: Sequence["Ledger"] | None = None
    ) -> list[RunHandle | Exception]:
        """Ask for many runs without keys in one commit; each succeeds or fails for itself.

        Args:
            asked: Of each run, arguments of `enqueue`; without keys, and without a worker that starts it at once. Up to
                `limits.ENQUEUES_MAX` runs.
            by: In whose name each is asked for, as `bind` gives it; None is this ledger's for all.

        Raises:
            InvalidInput: when there are too many, or not as many names as runs. What is wrong with one run is among
                what is given back.
        """
        outcomes: dict[int, RunHandle | Exception] = {}
        requests: dict[int, AppendRequest] = {}
        for index, (facts, log) in enumerate(self._asked_by(asked, by)):
            try:
                made_id, event = log._asked(**{**_NOTHING_ASKED, **asked_of_many(facts, index=index)})
                requests[index] = log._request(made_id, [event], NO_RUN)
            except LedgerError as error:
                outcomes[index] = error
        appended = self.store.append_all(list(requests.values())) if requests else []
        for (index, request), result in zip(requests.items(), appended, strict=True):
            outcomes[index] = RunHandle(request.run_id) if isinstance(result, Appended) else result
        return [outcomes[index] for index in range(len(asked))]

    def _asked_by(
        self, asked: Sequence[Mapping[str, Any]], by: Sequence["Ledger"] | None
    ) -> Iterator[tuple[Mapping[str, Any], "Ledger"]]:
        if isinstance(asked, str | bytes) or not isinstance(asked, Sequence):
            raise InvalidInput("asked", f"is {type(asked).__name__}; a list of runs to ask for is needed.")
        if len(asked) > limits.ENQUEUES_MAX:
            raise InvalidInput(
                "asked", f"has {len(asked):,} runs; {limits.ENQUEUES_MAX:,} are allowed. Ask for the others next."
            )
        if by is not None and len(by) != len(asked):
            raise InvalidInput("by", f"has {len(by):,} names for {len(asked):,} run(s); one each is needed.")
        return zip(asked, repeat(self) if by is None else by, strict=False)

    def _asked(self, kind: str, run_id: str | None, **facts: Any) -> tuple[RunId, Enqueued]:
        """Decide on the first event of a run, and on its id."""
        check_text(kind, field="kind", chars_max=_NAME)
        given = facts["input"]
        facts["input"] = {} if given is None else dict(given) if isinstance(given, Mapping) else given
        event = commands.decide_enqueue(kind=self._kinds.get(kind) or Kind(name=kind), now=self._clock(), **facts)
        return new_run_id() if run_id is None else RunId(check_uuid(run_id, field="run_id")), event

    def retry(
        self,
        run_id: str,
        *,
        shard: int | None = None,
        idempotency_key: str | None = None,
        on_active: Literal["reject", "return", "supersede"] = "reject",
    ) -> RunHandle:
        """Ask for a finished run once more, as a new run that names it as `retry_of`; the finished one stays as it is.

        Args:
            run_id: A finished run. What it was asked to do, and what its kind declared then, holds for the new one.
            shard: Only the tests of this shard, as a run that is not cut; None is all of it.
            idempotency_key: The same key gives the same new run, for ever.
            on_active: As in `enqueue`; the new run has the exclusive key of the old one.

        Raises:
            IllegalTransition: when the run is not finished.
            RunPurged: when what it was asked to do is erased.
            InvalidInput: when there is no such shard, or nobody knows which tests it had.
        """
        check_on_active(on_active)
        run = self.state(run_id)
        tests = None if shard is None else self._tests_of_shard(run, shard)
        first = next(self.read(run_id, up_to=1)).data
        if first is None and idempotency_key is not None:
            earlier = self.find_by_idempotency_key(idempotency_key, project=run.project)
            if earlier is not None and self.state(earlier).retry_of == run.run_id:
                return RunHandle(earlier, is_new=False)
        event = commands.decide_enqueue_again(
            run,
            first if isinstance(first, Enqueued) else None,
            tests=tests,
            idempotency_key=idempotency_key,
            now=self._clock(),
        )
        return self._enqueue(new_run_id(), event, on_active=on_active, worker=None)

    def _tests_of_shard(self, run: RunState, shard: int) -> list[str]:
        """Give the ids of a shard's tests: those that were planned for it, else those that it has results of."""
        last = limits.INTEGER_MAX if run.shard_count is None else run.shard_count - 1
        check_integer(shard, field="shard", at_least=0, at_most=last)
        seen: dict[str, None] = {}
        for event in self.read(run.run_id):
            match event.data:
                case Enqueued(plan=plan) if shard < len(plan):
                    return plan[shard]
                case ShardResultAppended(shard=of, results=results) if of == shard:
                    seen.update((str(result["testId"]), None) for result in results if result.get("testId"))
                case _:
                    pass
        return list(seen)

    def _enqueue(self, made_id: RunId, event: Enqueued, *, on_active: str, worker: str | None) -> RunHandle:
        project, exclusive_key = event.project, event.exclusive_key
        claims = []
        if event.idempotency_key is not None:
            claims.append(KeyClaim("idempotency", project or "", event.idempotency_key, fingerprint(event)))
        if event.exclusive_key is not None:
            claims.append(KeyClaim("exclusive", project or "", event.exclusive_key, until_closed=True))
        events: list[RunEvent] = [event]
        if worker is not None:
            check_text(worker, field="worker", chars_max=_NAME)
            events.append(Started(attempt=1, started_at=event.enqueued_at, worker=worker))
        request = self._request(made_id, events, NO_RUN, claims=tuple(claims))
        for _ in range(limits.KEY_TRIES_MAX):
            try:
                self._append(request)
                return RunHandle(made_id)
            except KeyTaken as taken:
                holder = self._holder(taken, on_active)
                if holder is not None:
                    return RunHandle(holder, is_new=False)
        raise StoreBusy(
            f"exclusive key {exclusive_key!r} was taken by {limits.KEY_TRIES_MAX} other runs in a row; nothing was"
            " written. Find out who enqueues so often, or try again."
        )

    def _holder(self, taken: KeyTaken, on_active: str) -> RunId | None:
        """Settle a taken key: the run that answers the call, or None to try again."""
        holder = RunId(taken.run_id)
        if taken.claim.space == "idempotency":
            if taken.fingerprint != taken.claim.fingerprint:
                raise IdempotencyMismatch(key=taken.claim.key, run_id=holder) from None
            return holder
        if on_active == "return":
            return holder
        if on_active == "reject":
            raise ExclusiveKeyTaken(key=taken.claim.key, active_run_id=holder) from None
        self.abort(holder, reason="superseded", mode="superseded")
        return None

    def find_by_idempotency_key(self, key: str, *, project: str | None = None) -> RunId | None:
        """Give the run that an idempotency key stands for, a purged one too; None when there is none."""
        return self._key_holder("idempotency", key, project)

    def find_by_exclusive_key(self, key: str, *, project: str | None = None) -> RunId | None:
        """Give the active run that holds an exclusive key; None when none does."""
        return self._key_holder("exclusive", key, project)

    def _key_holder(self, space: str, key: str, project: str | None) -> RunId | None:
        check_text(key, field=f"{space}_key", chars_max=limits.KEY_CHARS_MAX)
        check_optional_text(project, field="project", chars_max=_NAME)
        return self.store.key_holder(space=space, project=project or "", key=key)

    # --- work: claims, leases, and what becomes of them ------------------------------------------------------

    def claim(
        self,
        worker: str,
        *,
        kinds: Sequence[str] | None = None,
        limit: int = 1,
        lease_s: float = limits.LEASE_S,
    ) -> list[Lease]:
        """Take what may be done now: runs, shards of runs, and runs to be finalized; by priority, then by age.

        Args:
            worker: Who works; a name that no other process has.
            kinds: Only work of these kinds; None is any.
            limit: The most tasks, 1 to `limits.TASKS_PER_CLAIM_MAX`.
            lease_s: After how many seconds without a heartbeat the work may go to another.

        Returns:
            The leases; empty when there is nothing to do. Several processes never get the same.
        """
        check_text(worker, field="worker", chars_max=_NAME)
        check_integer(limit, field="limit", at_least=1, at_most=limits.TASKS_PER_CLAIM_MAX)
        return queue.claim(
            self.store,
            worker=worker,
            kinds=None if kinds is None else list(dict.fromkeys(check_names(kinds, field="kinds"))),
            limit=limit,
            lease_s=check_lease_s(lease_s),
            clock=self._clock,
            cache=self._cache,
            make_request=self._request,
        )

    def heartbeat(self, leases: Sequence[Lease], *, lease_s: float = limits.LEASE_S) -> list[Heartbeat]:
        """Keep leases, and hear whether the work is still wanted; one statement for all of them, and no event.

        Args:
            leases: What this worker holds.
            lease_s: From now on, until the next heartbeat.

        Returns:
            One answer a lease, in their order.
        """
        check_leases(leases)
        return queue.renew(self.store, leases, lease_s=check_lease_s(lease_s)) if leases else []

    def look(self, leases: Sequence[Lease]) -> list[Heartbeat]:
        """Hear whether leased work is still held and wanted, as `heartbeat` does, without moving a deadline.

        It writes nothing, so a worker can ask a few times a second and learn of an abort at once.

        Args:
            leases: What this worker holds; up to `limits.LEASES_PER_HEARTBEAT_MAX`.
        """
        check_leases(leases)
        return queue.look(self.store, leases) if leases else []

    def hold(self, run_id: str, *, lease_s: float = limits.LEASE_S) -> Lease:
        """Make a lease of a run that was started by name: whoever started it now has a deadline to keep.

        Args:
            run_id: A running run, all of it its worker's.
            lease_s: After how many seconds without a heartbeat the run is settled as lost.

        Raises:
            LeaseLost: when nobody holds the run, somebody holds it under a lease, or its shards are taken one by one.
        """
        run = self.state(run_id)
        deadline = self.store.tasks.lend(RunId(run.run_id), token=run.taken_version, lease_s=check_lease_s(lease_s))
        if deadline is None:
            raise LeaseLost(run_id=run_id, shard=None, worker=run.worker or "", token=run.taken_version)
        return Lease(
            run_id=RunId(run.run_id),
            kind=run.kind,
            project=run.project,
            attempt=run.attempt,
            token=run.taken_version,
            worker=run.worker or "",
            deadline=deadline,
            policy=run.policy,
        )

    def under(self, lease: Lease) -> Self:
        """Give the same ledger, writing under a lease: what it writes to another run is refused, and what it writes
        after the lease went to another is refused with `LeaseLost` and noted in the run's history, once a lease.

        Results and logs of a shard's lease are the shard's without saying so.
        """
        bound = self._copy()
        bound._lease = lease
        return bound

    def _copy(self) -> Self:
        """Give the same ledger for another context: everything is shared. `copy.copy` takes ten times as long."""
        bound = self.__class__.__new__(self.__class__)
        bound.__dict__.update(self.__dict__)
        return bound

    def succeed(
        self,
        lease: Lease,
        *,
        output_ref: str | None = None,
        exit_code: int | None = None,
        finished_at: datetime | None = None,
        event_id: str | None = None,
    ) -> Outcome:
        """Report that leased work is done: completes the run, or the shard.

        Raises:
            LeaseLost: when it went to another worker.
        """
        check_optional_text(output_ref, field="output_ref", chars_max=_TEXT)
        finish, _ = self._finish(finished_at, None)
        return self.under(lease)._decide(
            lease.run_id,
            lambda run: work.decide_succeed(run, lease, finished_at=finish, output_ref=output_ref, exit_code=exit_code),
            event_id=event_id,
        )

    def succeed_all(self, leases: Sequence[Lease]) -> list[Outcome | Exception]:
        """Report many leased runs done at once, in one commit; each succeeds or fails for itself."""
        finished_at = self._clock()
        prepared: list[tuple[int, AppendRequest]] = []
        for index, lease in enumerate(leases):
            run = self._cache.get(lease.run_id)
            if run is not None and lease.purpose is Purpose.RUN and run.version >= lease.token:
                events = self._attempt(run, lease, finished_at)
                if len(events) == 1:
                    prepared.append((index, self._request(lease.run_id, events, exactly(run.version))))
        outcomes: dict[int, Outcome | Exception] = {}
        appended = self.store.append_all([request for _, request in prepared]) if prepared else []
        for (index, request), result in zip(prepared, appended, strict=True):
            if isinstance(result, Appended):
                outcomes[index] = Outcome(request.run_id, True, recorded(request, result))
            elif isinstance(result, OutcomeUnknown):
                outcomes[index] = result
        return [outcomes.get(index) or self._succeed_alone(lease) for index, lease in enumerate(leases)]

    @staticmethod
    def _attempt(run: RunState, lease: Lease, finished_at: datetime) -> Sequence[RunEvent]:
        """Decide on what is known of the run; what that refuses is decided anew on what is in the log."""
        try:
            return work.decide_succeed(run, lease, finished_at=finished_at, output_ref=None, exit_code=None)
        except LedgerError:
            return ()

    def _succeed_alone(self, lease: Lease) -> Outcome | Exception:
        try:
            return self.succeed(lease)
        except LedgerError as error:
            return error

    def give_up(
        self,
        lease: Lease,
        *,
        error: str,
        category: str | None = None,
        is_retryable: bool = True,
        event_id: str | None = None,
    ) -> Outcome:
        """Report that leased work failed: it is tried again as the run's kind declares, or fails for good.

        Args:
            lease: What this worker held.
            error: What went wrong; cut to `limits.ERROR_CHARS_MAX`.
            category: A word for it, for programs.
            is_retryable: Whether another attempt may help.
            event_id: An id of the caller's own making, so that a repeated call is the same event.

        Raises:
            LeaseLost: when it went to another worker.
        """
        check_text(error, field="error", chars_max=limits.PAYLOAD_BYTES_MAX)
        check_optional_text(category, field="category", chars_max=_NAME)
        now, fraction = self._clock(), random.random()
        return self.under(lease)._decide(
            lease.run_id,
            lambda run: work.decide_give_up(
                run,
                lease,
                error=error,
                error_category=category,
                is_retryable=is_retryable,
                now=now,
                fraction=fraction,
            ),
            event_id=event_id,
        )

    def hand_back(self, lease: Lease, *, reason: str) -> Outcome:
        """Give leased work back undone, for others to claim: it does not count as an attempt, and nothing of it stays.

        Raises:
            LeaseLost: when it went to another worker.
        """
        check_text(reason, field="reason", chars_max=_TEXT)
        if lease.purpose is Purpose.FINALIZE:
            return Outcome(lease.run_id, self.store.tasks.release(lease), None)
        return self.under(lease)._decide(lease.run_id, lambda run: work.decide_hand_back(run, lease, reason=reason))

    def sweep(self, *, limit: int = limits.TASKS_PER_CLAIM_MAX) -> list[Swept]:
        """Settle leases whose deadline passed, as their runs' kinds declare, and abort requests that are overdue.

        Harmless however many do it; a lease that is still held is never touched.

        Args:
            limit: The most tasks to look at.
        """
        check_integer(limit, field="limit", at_least=1, at_most=limits.TASKS_PER_CLAIM_MAX)
        return queue.sweep(self.store, limit=limit, clock=self._clock, make_request=self._request)

    def tasks(
        self,
        *,
        run_id: str | None = None,
        kinds: Sequence[str] | None = None,
        after: tuple[str, int] | None = None,
        limit: int = limits.LIST_ROWS_MAX,
    ) -> Sequence[Task]:
        """Show what is left to do and who holds it, in the order of run ids.

        Args:
            run_id: Only of this run.
            kinds: Only of these kinds.
            after: Run id and shard (-1 for the run itself) of the last task seen.
            limit: The most tasks.
        """
        check_integer(limit, field="limit", at_least=1, at_most=limits.LIST_ROWS_MAX)
        return self.store.tasks.list(
            run_id=None if run_id is None else self._run_id(run_id),
            kinds=None if kinds is None else check_names(kinds, field="kinds"),
            after=after,
            limit=limit,
        )

    def stuck(
        self, *, older_than_s: float = limits.STUCK_S, ahead_s: float = limits.FAR_AHEAD_S
    ) -> Iterator[StuckTask]:
        """Tell what makes no progress and whom it waits for, in the order of run ids; it reads all that is to be done.

        Args:
            older_than_s: What has been so for less long is left out; a lease that is over is told at once, and so is an
                abort that was to happen by now. Until an abort's deadline nobody is late.
            ahead_s: What is scheduled within this time is left out.
        """
        older_than = timedelta(seconds=_seconds(older_than_s, field="older_than_s"))
        ahead = timedelta(seconds=_seconds(ahead_s, field="ahead_s"))
        return gathered(self._stuck(older_than, ahead))

    def _stuck(self, older_than: timedelta, ahead: timedelta) -> Iterator[tuple[Task, Why, datetime]]:
        after: tuple[str, int] | None = None
        while page := self.tasks(after=after):
            now = self._clock()
            for task in page:
                why = why_waiting(task, now=now, older_than=older_than, ahead=ahead)
                since = waiting_since(task)
                if task.shard is None and (why is Why.SILENT or task.abort_requested):
                    why, since = self._look_at_run(task, why, since, before=now - older_than)
                if why is not None:
                    yield task, why, since
            after = page[-1].run_id, -1 if page[-1].shard is None else page[-1].shard

    def _look_at_run(
        self, task: Task, why: Why | None, since: datetime, *, before: datetime
    ) -> tuple[Why | None, datetime]:
        """Judge a task by what its run says, which tasks do not know: when it last wrote, and was asked to stop."""
        run = self.state(task.run_id)
        if run.is_terminal:
            return None, since  # it ended since we looked
        if task.abort_by is not None and task.abort_by <= self._clock():
            return Why.ABORT_REQUESTED, task.abort_by
        if task.abort_by is None and run.abort_requested_at is not None and run.abort_requested_at <= before:
            return Why.ABORT_REQUESTED, run.abort_requested_at
        if why is not Why.SILENT or run.updated_at is None:
            return why, since
        if run.status is Status.INTERRUPTED:
            return Why.INTERRUPTED, since
        return (why, run.updated_at) if run.updated_at <= before else (None, since)

    # --- the life of a run ---------------------------------------------------------------------------------

    def release(self, run_id: str) -> Outcome:
        """Let a scheduled run be picked up now."""
        return self._decide(run_id, commands.decide_release)

    def start(self, run_id: str, *, worker: str, event_id: str | None = None) -> Outcome:
        """Begin an attempt; one worker wins.

        Raises:
            IllegalTransition: when the run is neither queued nor due, and no other worker was first.
        """
        check_text(worker, field="worker", chars_max=_NAME)
        now = self._clock()
        return self._decide(run_id, lambda run: commands.decide_start(run, worker=worker, now=now), event_id=event_id)

    def enter_phase(self, run_id: str, phase: str) -> Outcome:
        """Enter a phase of the running run; a late call on a finished run is lost to its terminal event."""
        check_text(phase, field="phase", chars_max=_NAME)
        return self._decide(run_id, lambda run: commands.decide_enter_phase(run, phase=phase))

    def resolve_version(self, run_id: str, version: str) -> Outcome:
        """Record the version of what the run builds or tests."""
        check_text(version, field="version", chars_max=_NAME)
        return self._decide(run_id, lambda run: commands.decide_resolve_version(run, resolved_version=version))

    def finish_gate(
        self, run_id: str, gate: str, outcome: str, *, summary: str | None = None, log_ref: str | None = None
    ) -> Outcome:
        """Record the outcome of a quality gate of the run: `passed`, `failed` or `blocked`."""
        check_text(gate, field="gate", chars_max=_NAME)
        if outcome not in tuple(GateOutcome):
            raise InvalidInput("outcome", f"is {outcome!r}; passed, failed or blocked is allowed.")
        check_optional_text(summary, field="summary", chars_max=_TEXT)
        check_optional_text(log_ref, field="log_ref", chars_max=_TEXT)
        return self._decide(
            run_id,
            lambda run: commands.decide_finish_gate(
                run, gate=gate, outcome=GateOutcome(outcome), summary=summary, log_ref=log_ref
            ),
        )

    def fail_attempt(
        self, run_id: str, *, error: str, category: str | None = None, retry_at: datetime | None = None
    ) -> Outcome:
        """End the present attempt: the run goes back to the queue, or is scheduled for `retry_at`."""
        check_text(error, field="error", chars_max=limits.PAYLOAD_BYTES_MAX)
        check_optional_text(category, field="category", chars_max=_NAME)
        at = None if retry_at is None else check_time(retry_at, field="retry_at")
        return self._decide(
            run_id,
            lambda run: commands.decide_fail_attempt(run, error=error, error_category=category, retry_at=at),
        )

    def interrupt(self, run_id: str, *, reason: str) -> Outcome:
        """Note that nobody works on the run any more; it may be resumed, failed or aborted."""
        check_text(reason, field="reason", chars_max=_TEXT)
        return self._decide(run_id, lambda run: commands.decide_interrupt(run, reason=reason))

    def resume(self, run_id: str, *, worker: str) -> Outcome:
        """Take an interrupted run up again, in the same stream and attempt; one worker wins."""
        check_text(worker, field="worker", chars_max=_NAME)
        return self._decide(run_id, lambda run: commands.decide_resume(run, worker=worker))

    def request_abort(self, run_id: str, *, reason: str | None = None, deadline: datetime | None = None) -> Outcome:
        """Ask the workers of a run to stop; the run goes on until somebody ends it."""
        check_optional_text(reason, field="reason", chars_max=_TEXT)
        by = None if deadline is None else check_time(deadline, field="deadline")
        return self._decide(run_id, lambda run: commands.decide_request_abort(run, reason=reason, deadline=by))

    def start_finalization(self, run_id: str, *, worker: str) -> Outcome:
        """Finalize the run, or take over from a finalizer that died."""
        check_text(worker, field="worker", chars_max=_NAME)
        return self._decide(run_id, lambda run: commands.decide_start_finalization(run, worker=worker))

    def complete(
        self,
        run_id: str,
        *,
        output_ref: str | None = None,
        finished_at: datetime | None = None,
        duration_ms: int | None = None,
        event_id: str | None = None,
    ) -> Outcome:
        """Finish a running run; the first terminal event wins.

        Returns:
            True in a condition for the winner only; `winner` is the event that won, whoever wrote it.
        """
        check_optional_text(output_ref, field="output_ref", chars_max=_TEXT)
        finish, duration = self._finish(finished_at, duration_ms)
        return self._decide(
            run_id,
            lambda run: commands.decide_complete(run, finished_at=finish, output_ref=output_ref, duration_ms=duration),
            event_id=event_id,
        )

    def fail(
        self,
        run_id: str,
        *,
        error: str,
        category: str | None = None,
        failure_summary: str | None = None,
        finished_at: datetime | None = None,
        duration_ms: int | None = None,
        event_id: str | None = None,
    ) -> Outcome:
        """Fail a run; the first terminal event wins.

        Args:
            run_id: The run.
            error: What went wrong; cut to `limits.ERROR_CHARS_MAX`, head and tail kept.
            category: A word for it, for programs.
            failure_summary: The headline; None takes the first red gate, else the error's first line.
            finished_at: When it ended; None is now.
            duration_ms: How long it took; None counts from its first start.
            event_id: An id of the caller's own making, so that a repeated call is the same event.
        """
        check_text(error, field="error", chars_max=limits.PAYLOAD_BYTES_MAX)
        check_optional_text(category, field="category", chars_max=_NAME)
        check_optional_text(failure_summary, field="failure_summary", chars_max=limits.PAYLOAD_BYTES_MAX)
        finish, duration = self._finish(finished_at, duration_ms)
        return self._decide(
            run_id,
            lambda run: commands.decide_fail(
                run,
                error=error,
                error_category=category,
                failure_summary=failure_summary,
                finished_at=finish,
                duration_ms=duration,
            ),
            event_id=event_id,
        )

    def abort(
        self,
        run_id: str,
        *,
        reason: str | None = None,
        mode: str = "user",
        skipped: Sequence[Mapping[str, Any]] = (),
        finished_at: datetime | None = None,
        duration_ms: int | None = None,
        event_id: str | None = None,
    ) -> Outcome:
        """End a run on purpose; the first terminal event wins, and an abort has no precedence.

        Args:
            run_id: The run.
            reason: Why, for people.
            mode: Why, for programs: `user`, `superseded`, `shutdown`, `deadline` …
            skipped: Results of the tests that now never run; empty takes those of the run's plan that have no result.
            finished_at: When it ended; None is now.
            duration_ms: How long it took; None counts from its first start.
            event_id: An id of the caller's own making, so that a repeated call is the same event.
        """
        check_optional_text(reason, field="reason", chars_max=_TEXT)
        check_text(mode, field="mode", chars_max=_NAME)
        results = check_results(skipped) if skipped else []
        finish, duration = self._finish(finished_at, duration_ms)
        planned = PlannedSkips(self.store, self._run_id(run_id))
        return self._decide(
            run_id,
            lambda run: commands.decide_abort(
                run,
                reason=reason,
                mode=mode,
                skipped=results or planned.of(run),
                finished_at=finish,
                duration_ms=duration,
            ),
            event_id=event_id,
        )

    def delete(self, run_id: str, *, reason: str | None = None) -> Outcome:
        """Put a finished run into the recycle bin."""
        check_optional_text(reason, field="reason", chars_max=_TEXT)
        now = self._clock()
        return self._decide(run_id, lambda run: commands.decide_delete(run, reason=reason, now=now))

    def restore(self, run_id: str) -> Outcome:
        """Take a run out of the recycle bin."""
        return self._decide(run_id, commands.decide_restore)

    def purge(self, run_id: str, *, reason: str | None = None, from_bin: bool = True) -> Outcome:
        """Erase the data of a finished run for good; what lists need of it stays, and its place in the log.

        The payloads of all its events go; types, times, actors and places stay, and so does the answer to its
        idempotency key. A run of up to `limits.ERASE_EVENTS` events is purged in one transaction. A longer one is
        purged bit by bit, so that it holds up nobody: from the first bit on it takes in nothing, and until the last
        one it is still in the bin. When that breaks off, purge it again, which goes on. Purging a purged run changes
        nothing.

        Args:
            run_id: The run.
            reason: Why; it stays, so it names nobody.
            from_bin: Only a run in the recycle bin, so that purging takes two steps; False takes any finished run,
                as retention does.

        Returns:
            The `purged` event when this call wrote one; `winner` is None when all was erased before.

        Raises:
            IllegalTransition: when the run is active, or is not in the bin.
            RunNotFound: when there is no such run.
        """
        check_optional_text(reason, field="reason", chars_max=_TEXT)
        run, now = self._run_id(run_id), self._clock()
        load(self.store, run, self._cache)  # here, since folding a long run inside its turn would hold up others
        version, written, is_whole = 0, None, False
        while not is_whole:
            with self.store.in_turn(run) as turn:
                state = load(turn, run, self._cache)
                commands.require_purgeable(state, from_bin=from_bin)
                end = commands.erasable_version(state)
                version = turn.erase(run, after_version=version, up_to=end, limit=limits.ERASE_EVENTS)
                is_whole = version == end
                events = commands.decide_purge(state, reason=reason, from_bin=from_bin, is_whole=is_whole, now=now)
                if events:
                    request = self._request(run, events, exactly(state.version))
                    appended = turn.append(request)
            if events:
                written = recorded(request, appended)
        return Outcome(run, True, written)

    # --- what commutes: appended without a decision --------------------------------------------------------

    def append_results(
        self,
        run_id: str,
        results: Sequence[Mapping[str, Any]],
        *,
        shard: int | None = None,
        shard_attempt: int = 1,
        first_sequence: int | None = None,
        event_id: str | None = None,
    ) -> int:
        """Append test results, in order; siblings never conflict.

        Args:
            run_id: The run.
            results: Objects with at least a `status`; `passed` and `warning` count as passed, `skipped` as neither,
                everything else as failed.
            shard: Which shard they come from; None for results of no shard.
            shard_attempt: Which attempt of the shard; results of an older one are refused.
            first_sequence: Number of the first result within the shard's attempt, from 0: results whose numbers
                were seen do not count again. None: each counts.
            event_id: An id of the caller's own making, so that a repeated call is the same event.

        Returns:
            How many were appended: all of them, or 0 when the run is closed or the shard was handed on.

        Raises:
            RunNotFound: when there is no such run.
            InvalidInput: when a result cannot be stored.
        """
        checked = results_to_append(results, first_sequence=first_sequence, event_id=event_id)
        run = self._run_id(run_id)
        if self._lease is not None and shard is None and self._lease.shard is not None:
            shard, shard_attempt = self._lease.shard, self._lease.token
        check_integer(shard_attempt, field="shard_attempt", at_least=1, at_most=limits.ATTEMPTS_MAX)
        condition = unless_closed()
        if shard is not None:
            self._check_shard(run, shard)
            condition = unless_closed(shard_fence(shard), shard_attempt)
        if not checked:
            return 0
        size = limits.RESULTS_PER_EVENT_MAX
        events: list[RunEvent] = [
            ShardResultAppended(
                results=checked[start : start + size],
                shard=shard,
                shard_attempt=shard_attempt,
                first_sequence=None if first_sequence is None else first_sequence + start,
            )
            for start in range(0, len(checked), size)
        ]
        return len(checked) if self._append_commuting(run, events, condition, event_id=event_id) else 0

    def increment_stats(
        self, run_id: str, *, passed: int = 0, failed: int = 0, total: int = 0, event_id: str | None = None
    ) -> int:
        """Move the anonymous counters by these deltas.

        Returns:
            1 when they moved; 0 when every delta is 0, or the run is closed or unknown.
        """
        for field, delta in (("passed", passed), ("failed", failed), ("total", total)):
            check_integer(delta, field=field)
        if not (passed or failed or total):
            return 0
        event = StatsIncremented(passed=passed, failed=failed, total=total)
        try:
            return int(self._append_commuting(self._run_id(run_id), [event], unless_closed(), event_id=event_id))
        except RunNotFound:
            return 0

    def append_log(
        self,
        run_id: str,
        lines: Sequence[str],
        *,
        source: str = "stdout",
        level: str | None = None,
        shard: int | None = None,
        event_id: str | None = None,
    ) -> int:
        """Append lines of output. Accepted in every status: what a process says while it dies is worth keeping.

        Args:
            run_id: The run.
            lines: Without their line ends. What cannot be stored is replaced by U+FFFD, and a line longer than
                `limits.LOG_LINE_CHARS_MAX` is cut: output is nobody's input.
            source: Where they come from, such as `stdout` or `stderr`.
            level: Their level, where they have one.
            shard: Which shard they come from.
            event_id: Appends them once, however often this is called with it; the lines then have to fit one event,
                as each of `ledger.api.log_chunks` does.

        Returns:
            How many were appended.
        """
        chunks = log_chunks(lines)
        run = self._run_id(run_id)
        if self._lease is not None and shard is None:
            shard = self._lease.shard
        check_text(source, field="source", chars_max=_NAME)
        check_optional_text(level, field="level", chars_max=_NAME)
        if shard is not None:
            self._check_shard(run, shard)
        event_ids = one_event_id(event_id, event_count=len(chunks))
        for chunk in chunks:
            event = LogAppended(lines=chunk, source=source, level=level, shard=shard)
            self._append(self._request(run, [event], self._fenced(run, EXISTS), event_ids=event_ids))
        return len(lines)

    def record_artifact(
        self,
        run_id: str,
        name: str,
        uri: str,
        *,
        shard: int | None = None,
        media_type: str | None = None,
        size_bytes: int | None = None,
    ) -> RecordedRunEvent:
        """Record where something that the run made is kept; accepted in every status."""
        run = self._run_id(run_id)
        if shard is not None:
            self._check_shard(run, shard)
        event = ArtifactRecorded(
            name=check_text(name, field="name", chars_max=_NAME),
            uri=check_text(uri, field="uri", chars_max=_TEXT),
            shard=shard,
            media_type=check_optional_text(media_type, field="media_type", chars_max=_NAME),
            size_bytes=None if size_bytes is None else check_integer(size_bytes, field="size_bytes", at_least=0),
        )
        request = self._request(run, [event], self._fenced(run, EXISTS))
        return recorded(request, self._append(request))

    def record_document(
        self, run_id: str, name: str, document: object, *, event_id: str | None = None
    ) -> RecordedRunEvent:
        """Carry a document beside a run, too heavy for lists; accepted in every status, the latest of a name counts.

        Args:
            run_id: The run.
            name: What it is, such as `promptAudit`.
            document: Any JSON; null, too, which says that there is none any more.
            event_id: An id of the caller's own making, so that a repeated call is the same event.

        Raises:
            RunNotFound: when there is no such run.
            InvalidInput: when it is no JSON, or has more than `limits.DOCUMENT_BYTES_MAX` bytes.
        """
        check_text(name, field="name", chars_max=_NAME)
        check_json(document, field="document")
        size_bytes = len(encode_json(document))
        if size_bytes > limits.DOCUMENT_BYTES_MAX:
            raise InvalidInput(
                "document",
                f"has {size_bytes:,} bytes; {limits.DOCUMENT_BYTES_MAX:,} are allowed. Keep it elsewhere, and record"
                " where, with record_artifact.",
            )
        event = DocumentRecorded(name=name, document=document)
        run, event_ids = self._run_id(run_id), None if event_id is None else [event_id]
        request = self._request(run, [event], self._fenced(run, EXISTS), event_ids=event_ids)
        return recorded(request, self._append(request))

    def annotate(
        self, run_id: str, *, note: str | None = None, labels: Mapping[str, str | None] | None = None
    ) -> RecordedRunEvent:
        """Add a note, or set labels (None takes one away); accepted in every status.

        A run keeps `limits.LABELS_MAX` labels: while it has so many, a new name stands in the event alone.
        """
        run = self._run_id(run_id)
        event = annotation(note=note, labels=labels)
        request = self._request(run, [event], self._fenced(run, EXISTS))
        return recorded(request, self._append(request))

    # --- shards ---------------------------------------------------------------------------------------------

    def complete_shard(
        self, run_id: str, shard: int, *, shard_attempt: int | None = None, exit_code: int | None = None
    ) -> ShardOutcome:
        """Complete a shard; completing it twice changes nothing.

        Args:
            run_id: The run.
            shard: Its number, from 0.
            shard_attempt: Which attempt was finished; None is the newest.
            exit_code: What its process ended with.

        Raises:
            IllegalTransition: when a newer attempt of the shard has begun.
        """
        check_integer(shard, field="shard", at_least=0)
        if shard_attempt is not None:
            check_integer(shard_attempt, field="shard_attempt", at_least=1, at_most=limits.ATTEMPTS_MAX)
        if exit_code is not None:
            check_integer(exit_code, field="exit_code")
        return self._advance(
            run_id,
            lambda run: commands.decide_complete_shard(
                run, shard=shard, shard_attempt=shard_attempt, exit_code=exit_code
            ),
        )

    def increment_shards_completed(self, run_id: str) -> ShardOutcome:
        """Move the anonymous counter of completed shards, never past their number (1 when the run is not cut).

        Returns:
            `(False, …)` at the cap and on a closed run; `(False, 0)` for an unknown run.
        """
        try:
            return self._advance(run_id, commands.decide_complete_any_shard)
        except RunNotFound:
            return ShardOutcome(False, 0)

    def retry_shard(self, run_id: str, shard: int, *, reason: str | None = None) -> int:
        """Begin a newer attempt of a shard: what its older attempts appended counts no more.

        Returns:
            The number of the new attempt; 0 when the run is closed, and the caller must stop.
        """
        check_integer(shard, field="shard", at_least=0)
        check_optional_text(reason, field="reason", chars_max=_TEXT)
        try:
            decision = self._transact(run_id, lambda run: commands.decide_retry_shard(run, shard=shard, reason=reason))
        except RunClosed:
            return 0
        known = decision.before.shards.get(shard)
        return 2 if known is None else known.attempt + 1

    # --- the log --------------------------------------------------------------------------------------------

    def append(
        self,
        run_id: str,
        events: Sequence[RunEvent],
        *,
        when: Condition = ANY,
        event_ids: Sequence[str] | None = None,
        recorded_at: Sequence[datetime] | None = None,
    ) -> Appended:
        """Append events as they are: the low level, for importers and for rules of one's own.

        The rules of a run are not asked; the condition and the one terminal event a run may have hold all the same.

        Args:
            run_id: The run.
            events: What happened, in order; all or nothing.
            when: `ANY`, `NO_RUN`, `EXISTS`, `exactly(version)` or `unless_closed(…)`.
            event_ids: Ids of the caller's own making, one an event; sending them again gives the first places back.
            recorded_at: When each event was recorded first, for a history that is brought in from elsewhere; None is
                now.

        Raises:
            Refused: when the condition does not hold; it says who won.
            EventIdReused: when an id is in the log with other content.
            OutcomeUnknown: when the connection was lost during the commit.
        """
        if isinstance(events, str | bytes) or not isinstance(events, Sequence):
            raise InvalidInput("events", f"is {type(events).__name__}; a list of events is needed.")
        if not 1 <= len(events) <= limits.EVENTS_PER_APPEND_MAX:
            raise InvalidInput(
                "events", f"has {len(events):,} events; 1 to {limits.EVENTS_PER_APPEND_MAX:,} are allowed."
            )
        for index, event in enumerate(events):
            if type(event) not in EVENT_TYPES:
                raise InvalidInput(f"events[{index}]", f"is {type(event).__name__}; an event of a run is needed.")
            if isinstance(event, Enqueued):
                commands.check_enqueued(event)
        if sum(isinstance(event, TERMINAL_EVENTS) for event in events) > 1:
            raise InvalidInput("events", "hold two terminal events; a run ends once.")
        _check_condition(when)
        run = self._run_id(run_id)
        request = self._request(
            run,
            events,
            self._fenced(run, when),
            event_ids=event_ids,
            recorded_at=_times(recorded_at, count=len(events)),
        )
        for event, made in zip(events, request.events, strict=True):
            check_event(event, made.payload)
        return self._append(request)

    def resolve(self, unknown: OutcomeUnknown) -> Appended:
        """Settle an append whose outcome is unknown: find its events, or append them once.

        Of a purge, what was to be erased with them is erased, to the end.

        Raises:
            Refused: when it had not been committed, and its condition holds no more. It never will be committed.
            OutcomeUnknown: when the connection was lost again.
        """
        request = unknown.request
        if not isinstance(request, AppendRequest):
            raise InvalidInput("unknown", "was not raised by a ledger of this process.")
        if request.events[-1].type == type_of(Purged):
            return self._resolve_purge(request.run_id, request.events[-1].payload)
        return self._append(request)

    def _resolve_purge(self, run_id: RunId, payload: bytes) -> Appended:
        """Purge anew: the event that was lost may never be appended without erasing what it says is erased."""
        lost = decode(payload)
        reason = lost.reason if isinstance(lost, Purged) else None
        written = self.purge(run_id, reason=reason, from_bin=False).winner
        event = written or self._event_at(run_id, load(self.store, run_id, self._cache).purged_version)
        return Appended(run_id, event.version, (event.position,), written is None)

    def read(
        self, run_id: str, *, after_version: int = 0, up_to: int | datetime | None = None
    ) -> Iterator[RecordedRunEvent]:
        """Read a run's events in order.

        Args:
            run_id: The run; an unknown one has no events.
            after_version: Start after this version.
            up_to: Stop after this version, or before the first event recorded after this moment.
        """
        run, version = self._run_id(run_id), check_integer(after_version, field="after_version", at_least=0)
        latest = timestamp(check_time(up_to, field="up_to")) if isinstance(up_to, datetime) else None
        last_version = None
        if up_to is not None and not isinstance(up_to, datetime):
            last_version = check_integer(up_to, field="up_to", at_least=0)
        while True:
            page = self.store.read_run(run, after_version=version, limit=limits.PAGE_EVENTS)
            for joined in page.events:
                for event in decode_joined(joined):
                    if (last_version is not None and event.version > last_version) or (
                        latest is not None and event.envelope.recorded_at > latest
                    ):
                        return
                    yield event
                    version = event.version
            if not page.more:
                return

    def read_all(
        self, *, after: int = 0, types: Sequence[str] | None = None, page_size: int = limits.PAGE_EVENTS
    ) -> Iterator[RecordedRunEvent]:
        """Read the whole log in order, up to what is settled now.

        Args:
            after: The position of the last event seen; 0 at first. Remembering it is all a reader needs.
            types: Only events of these types; None is all.
            page_size: How many events are read at once.
        """
        check_integer(after, field="after", at_least=0)
        limit = check_integer(page_size, field="page_size", at_least=1, at_most=limits.PAGE_EVENTS_MAX)
        wanted = _types(types)
        while True:
            page = self.store.read_log(after_position=after, limit=limit)
            for joined in page.events:
                for event in decode_joined(joined):
                    if wanted is None or event.type in wanted:
                        yield event
            after = page.last_position
            if not page.more:
                return

    def subscribe(
        self, *, after: int = 0, types: Sequence[str] | None = None, run_id: str | None = None
    ) -> Subscription:
        """Follow the log: what is there, then what comes, from this and every other process.

        Args:
            after: The position of the last event seen; 0 at first.
            types: Only events of these types.
            run_id: Only events of this run.

        Returns:
            An iterator that waits; `close()` ends it from any thread. Its `position` is what to remember.
        """
        check_integer(after, field="after", at_least=0)
        run = None if run_id is None else self._run_id(run_id)
        subscription = Subscription(self.store, after=after, types=_types(types), run_id=run)
        self._subscriptions.add(subscription)
        return subscription

    def consumer(
        self,
        name: str,
        *,
        types: Sequence[str] = (),
        kind: str | None = None,
        projects: Sequence[str] | None = None,
        labels: Mapping[str, str] | None = None,
        partitions: int = 1,
        after: int | None = 0,
    ) -> Consumer:
        """Open a named consumer, whose checkpoint the ledger keeps; it is made if there is none.

        Args:
            name: Letters, digits, `.`, `_` and `-`.
            types: Only events of these types; empty is all.
            kind: Only events of runs of this kind.
            projects: Only events of runs of these projects; None is all, and runs of none.
            labels: Only events of runs that were enqueued with all of these.
            partitions: How many readers can have a batch at once; the events of one run stay in one partition.
            after: With a new one: the position after which it begins; 0 is with the log, None is with what comes.

        Raises:
            ConsumerDiffers: when there is one of that name that is not like this.
        """
        settings = new_settings(
            name, types=types, kind=kind, projects=projects, labels=labels, partitions=partitions, now=self._clock()
        )
        kept = self.store.consumers.find(name)
        if kept is None:
            if len(self.store.consumers.list()) >= limits.CONSUMERS_MAX:
                raise InvalidInput("consumer", f"is one more than {limits.CONSUMERS_MAX:,}; remove some first.")
            self.store.consumers.add(settings, position=start_after(self.store, after))
            kept = self.find_consumer(name).settings  # somebody else may have been first
        if (kept.wanted, kept.partitions) != (settings.wanted, settings.partitions):
            raise ConsumerDiffers(name)
        return Consumer(self.store, kept, facts=self.facts)

    def find_consumer(self, name: str) -> Consumer:
        """Open a named consumer as it was made.

        Raises:
            ConsumerNotFound: when there is none of that name.
        """
        kept = self.store.consumers.find(check_name(name))
        if kept is None:
            raise ConsumerNotFound(name)
        return Consumer(self.store, kept, facts=self.facts)

    def consumers(self) -> list[Consumer]:
        """Give all named consumers, by name; their `status` tells how far each is behind."""
        return [Consumer(self.store, kept, facts=self.facts) for kept in self.store.consumers.list()]

    def state(self, run_id: str, *, at: int | datetime | None = None) -> RunState:
        """Fold a run from its events, now, up to a version, or up to a moment.

        Raises:
            RunNotFound: when it has no event up to there.
        """
        run = self._run_id(run_id)
        state = load(self.store, run, self._cache) if at is None else self._state_at(run, at)
        if state.version == 0:
            raise RunNotFound(run)
        return state

    def _state_at(self, run: RunId, at: int | datetime) -> RunState:
        state = fold(initial(run), self.read(run, up_to=at))
        if state.kind or not state.version:
            return state
        later = self.read(run, after_version=state.version)  # no kind: the first event was erased
        purge = next((event for event in later if isinstance(event.data, Purged)), None)
        return state if purge is None else remains(self.read(run, up_to=state.version), purge=purge)

    # --- shared steps ---------------------------------------------------------------------------------------

    def _run_id(self, run_id: str) -> RunId:
        return RunId(check_uuid(run_id, field="run_id"))

    def _finish(self, finished_at: datetime | None, duration_ms: int | None) -> tuple[datetime, int | None]:
        if duration_ms is not None:
            check_integer(duration_ms, field="duration_ms", at_least=0)
        moment = self._clock() if finished_at is None else check_time(finished_at, field="finished_at")
        return moment, duration_ms

    def _check_shard(self, run_id: RunId, shard: int) -> None:
        """Check a shard's number against the run's first event, which never changes: read once a process."""
        check_integer(shard, field="shard", at_least=0)
        if shard < self._shards_caps.get(run_id, 0):
            return
        page = self.store.read_run(run_id, after_version=0, limit=1)
        if not page.count:
            raise RunNotFound(run_id)
        first = decode_page(page.events)
        if first[0].data is None:
            return  # purged: the append itself is refused
        run = fold(initial(run_id), first)
        commands.check_shard(run, shard)
        if len(self._shards_caps) >= 1_024:
            self._shards_caps.clear()
        self._shards_caps[run_id] = run.shards_cap

    def _request(
        self,
        run_id: RunId,
        events: Sequence[RunEvent],
        condition: Condition,
        *,
        event_ids: Sequence[str] | None = None,
        claims: tuple[KeyClaim, ...] = (),
        recorded_at: Sequence[datetime] | None = None,
    ) -> AppendRequest:
        count = len(events)
        if event_ids is None:
            ids: Sequence[EventId] = new_event_ids(count)
        elif isinstance(event_ids, str) or not isinstance(event_ids, Sequence):
            raise InvalidInput("event_ids", f"is {type(event_ids).__name__}; a list of ids is needed.")
        elif len(event_ids) != count:
            raise InvalidInput("event_ids", f"has {len(event_ids)} ids for {count} event(s).")
        else:
            ids = [EventId(check_uuid(event_id, field="event_id")) for event_id in event_ids]
        return AppendRequest(
            run_id,
            condition,
            to_new_events(
                events,
                run_id=run_id,
                recorded_at=self._clock() if recorded_at is None else recorded_at,
                event_ids=ids,
                salts=new_salts(count, size_bytes=SALT_BYTES),
                context=self._context,
                first_version=condition.version + 1 if condition.rule in (Rule.EXACTLY, Rule.NO_RUN) else 0,
            ),
            claims,
        )

    def _append(self, request: AppendRequest) -> Appended:
        try:
            return self.store.append(request)
        except Refused as refused:
            if isinstance(refused, ShardSuperseded) and self._lease is not None:
                raise self._lost(self._lease, request.events[0].type) from None
            raise self._with_winner(refused) from None

    def _append_commuting(
        self, run_id: RunId, events: Sequence[RunEvent], condition: Condition, *, event_id: str | None
    ) -> bool:
        lease = self._lease_of(run_id)
        event_ids = one_event_id(event_id, event_count=len(events))
        request = self._request(run_id, events, self._fenced(run_id, condition), event_ids=event_ids)
        try:
            self.store.append(request)
        except RunClosed:
            return False
        except ShardSuperseded:
            if lease is not None:
                raise self._lost(lease, type_of(events[0])) from None
            return False
        return True

    def _transact(self, run_id: str, decide: Decide, *, event_id: str | None = None) -> Decision:
        def request(run: RunId, events: Sequence[RunEvent], condition: Condition) -> AppendRequest:
            ids = None if event_id is None else [*new_event_ids(len(events) - 1), EventId(event_id)]
            return self._request(run, events, condition, event_ids=ids)

        run, lease = self._run_id(run_id), self._lease_of(run_id)
        if self._expected_version is not None:
            decide = _decide_at(self._expected_version, decide)
        if lease is None:
            return transact(self.store, run, decide, make_request=request, cache=self._cache)
        wanted: list[RunEvent] = []

        def decide_as_holder(state: RunState) -> Sequence[RunEvent]:
            wanted[:] = decide(state)
            work.check_lease(state, lease)
            return wanted

        try:
            return transact(
                self.store, run, decide_as_holder, make_request=request, cache=self._cache, trusts_cache=True
            )
        except LeaseLost:
            raise self._lost(lease, type_of(wanted[0]) if wanted else "nothing") from None

    def _lease_of(self, run_id: str) -> Lease | None:
        """Give the lease that this ledger writes under.

        Raises:
            InvalidInput: when it is one for another run.
        """
        if self._lease is not None and self._lease.run_id != run_id:
            raise InvalidInput("run_id", f"{run_id} is not the run of this lease, which is {self._lease.run_id}.")
        return self._lease

    def _fenced(self, run_id: RunId, condition: Condition) -> Condition:
        """Put a condition behind the fence of the lease that this ledger writes under."""
        lease = self._lease_of(run_id)
        if lease is None:
            return condition
        fence, epoch = lease.fence
        return msgspec.structs.replace(condition, fence=fence, epoch=epoch)

    def _lost(self, lease: Lease, attempted: str) -> LeaseLost:
        """Note in the run's history, once a lease, that its former holder still wanted to write."""
        event = WriteRejected(worker=lease.worker, token=lease.token, attempted=attempted, shard=lease.shard)
        shard = -1 if lease.shard is None else lease.shard
        at_ms = int(lease.run_id.replace("-", "")[:12], 16)  # what each process that knows of the lease knows
        event_id = derived_id("write_rejected", lease.run_id, shard, lease.purpose, lease.token, at_ms=at_ms)
        with suppress(LedgerError):  # what matters is that the caller stops
            self.store.append(self._request(lease.run_id, [event], EXISTS, event_ids=[event_id]))
        return LeaseLost(run_id=lease.run_id, shard=lease.shard, worker=lease.worker, token=lease.token)

    def _decide(self, run_id: str, decide: Decide, *, event_id: str | None = None) -> Outcome:
        run = self._run_id(run_id)
        if event_id is not None:
            known = self.store.find([EventId(check_uuid(event_id, field="event_id"))]).get(EventId(event_id))
            if known is not None and known[0] == run:
                return Outcome(run, True, self._event_at(run, known[1]))
        try:
            decision = self._transact(run_id, decide, event_id=event_id)
        except RunClosed as closed:
            return Outcome(run, False, self._event_at(run, closed.closed_version))
        except RunTaken as taken:
            return Outcome(run, False, self._event_at(run, taken.taken_version))
        if decision.request is None or decision.appended is None:
            return Outcome(run, True, None)
        return Outcome(run, True, recorded(decision.request, decision.appended))

    def _advance(self, run_id: str, decide: Decide) -> ShardOutcome:
        run = self._run_id(run_id)
        try:
            decision = self._transact(run_id, decide)
        except RunClosed:
            return ShardOutcome(False, load(self.store, run, self._cache).shards_completed)
        before = decision.before.shards_completed
        return ShardOutcome(decision.appended is not None, before + (decision.appended is not None))

    def _event_at(self, run_id: RunId, version: int) -> RecordedRunEvent:
        page = self.store.read_run(run_id, after_version=version - 1, limit=1)
        return decode_page(page.events)[0]

    def _with_winner(self, refused: Refused) -> Refused:
        run_id = RunId(refused.run_id)
        if isinstance(refused, VersionConflict) and refused.version > refused.expected_version:
            return VersionConflict(
                run_id=run_id,
                expected_version=refused.expected_version,
                version=refused.version,
                winner=self._event_at(run_id, refused.expected_version + 1),
            )
        if isinstance(refused, RunClosed):
            return RunClosed(
                run_id=run_id,
                closed_version=refused.closed_version,
                winner=self._event_at(run_id, refused.closed_version),
            )
        return refused


def recorded(request: AppendRequest, appended: Appended) -> RecordedRunEvent:
    """Give the last event of an append as the log has it, without asking the log."""
    event = request.events[-1]
    return decode_page(join_page([(appended.positions[-1], appended.version, event.envelope, event.payload)]))[0]


def _decide_at(version: int, decide: Decide) -> Decide:
    """Decide on one version of a run only; the append is made at the version that was decided on, or not at all."""

    def decide_there(run: RunState) -> Sequence[RunEvent]:
        if run.version not in (0, version):  # 0: there is no such run, which the rules tell better
            raise VersionConflict(run_id=run.run_id, expected_version=version, version=run.version)
        return decide(run)

    return decide_there


def check_leases(leases: Sequence[Lease]) -> None:
    """Check how many leases are asked after at once."""
    if len(leases) > limits.LEASES_PER_HEARTBEAT_MAX:
        raise InvalidInput(
            "leases", f"has {len(leases):,} leases; {limits.LEASES_PER_HEARTBEAT_MAX:,} are allowed at once."
        )


def check_on_active(on_active: str) -> None:
    """Check what is to become of the holder of an exclusive key."""
    if on_active not in ("reject", "return", "supersede"):
        raise InvalidInput("on_active", f"is {on_active!r}; reject, return or supersede is allowed.")


def asked_of_many(facts: Mapping[str, Any], *, index: int) -> JsonObject:
    """Check what is asked for as one of many: which arguments of `enqueue` there are, not their values.

    Raises:
        InvalidInput: when it is no mapping, names what `enqueue` does not take, or asks for what takes a run its own
            turn.
    """
    field = f"asked[{index}]"
    if not isinstance(facts, Mapping):
        raise InvalidInput(field, f"is {type(facts).__name__}; arguments of `enqueue` by their names are needed.")
    given = dict(facts)
    for name in ("idempotency_key", "exclusive_key", "worker"):
        if given.pop(name, None) is not None:
            raise InvalidInput(f"{field}.{name}", "is given; ask for a run with keys or a worker by itself.")
    if "kind" not in given:
        raise InvalidInput(f"{field}.kind", "is missing.")
    for name in given:
        if name != "kind" and name not in _NOTHING_ASKED:
            raise InvalidInput(f"{field}.{name}", "is nothing that a run among many is asked for with.")
    return given


_NOTHING_ASKED: Final = {
    "run_id": None,
    "project": None,
    "input": None,
    "labels": None,
    "shard_count": None,
    "total": None,
    "priority": 0,
    "not_before": None,
    "attempts_max": None,
    "idempotency_key": None,
    "exclusive_key": None,
    "parent_run_id": None,
    "retry_of": None,
    "plan": (),
    "callback_url": None,
}
"""What `enqueue` takes when it is told nothing."""


def _check_condition(when: Condition) -> None:
    if not isinstance(when, Condition) or not isinstance(when.rule, Rule):
        raise InvalidInput("when", f"is {type(when).__name__}; a condition such as exactly(3) is needed.")
    check_integer(when.version, field="when.version", at_least=0)
    check_integer(when.epoch, field="when.epoch", at_least=0, at_most=limits.ATTEMPTS_MAX)
    check_optional_text(when.fence, field="when.fence", chars_max=limits.KEY_CHARS_MAX)


def _types(types: Sequence[str] | None) -> frozenset[str] | None:
    return None if types is None else frozenset(check_names(types, field="types"))


def _times(moments: Sequence[datetime] | None, *, count: int) -> list[datetime] | None:
    if moments is None:
        return None
    if not isinstance(moments, Sequence):
        raise InvalidInput("recorded_at", f"is {type(moments).__name__}; a list of times is needed.")
    if len(moments) != count:
        raise InvalidInput("recorded_at", f"has {len(moments)} times for {count} event(s).")
    return [check_time(moment, field=f"recorded_at[{index}]") for index, moment in enumerate(moments)]


def _seconds(seconds: float, *, field: str) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise InvalidInput(field, f"is {type(seconds).__name__}; a number of seconds is needed.")
    if not 0 <= seconds <= limits.DELAY_S_MAX:
        raise InvalidInput(field, f"is {seconds}; 0 to {limits.DELAY_S_MAX:,} is allowed.")
    return seconds


def annotation(*, note: str | None, labels: Mapping[str, str | None] | None) -> Annotated:
    """Check what is noted on a run; see `Ledger.annotate`."""
    given = labels or {}
    if isinstance(given, Mapping):
        check_labels({name: "" if value is None else value for name, value in given.items()})
    else:
        check_labels(given)
    if note is None and not given:
        raise InvalidInput("note", "is missing, and no labels are given either.")
    return Annotated(
        note=check_optional_text(note, field="note", chars_max=_TEXT),
        labels=dict(sorted(given.items())),
    )


def results_to_append(
    results: Sequence[Mapping[str, Any]], *, first_sequence: int | None, event_id: str | None
) -> list[JsonObject]:
    """Check results as a whole, before anything of them is written; see `Ledger.append_results`."""
    checked = check_results(results)
    if first_sequence is not None:
        last = limits.INTEGER_MAX - max(0, len(checked) - 1)
        check_integer(first_sequence, field="first_sequence", at_least=0, at_most=last)
    one_event_id(event_id, event_count=-(-len(checked) // limits.RESULTS_PER_EVENT_MAX))
    return checked


def log_chunks(lines: Sequence[str]) -> list[list[str]]:
    """Check lines of output, make each storable, and cut them to events; see `Ledger.append_log`."""
    if isinstance(lines, str | bytes) or not isinstance(lines, Sequence):
        raise InvalidInput("lines", f"is {type(lines).__name__}; a list of lines is needed.")
    for index, line in enumerate(lines):
        if not isinstance(line, str):
            raise InvalidInput(f"lines[{index}]", f"is {type(line).__name__}; text is needed.")
    return list(_chunks([cut(clean(line), chars_max=limits.LOG_LINE_CHARS_MAX) for line in lines]))


def _chunks(lines: list[str]) -> Iterator[list[str]]:
    """Cut lines to events: by count, and by size, since one line may have thousands of characters."""
    chunk: list[str] = []
    room = limits.PAYLOAD_BYTES_MAX // 8  # a character takes up to 6 bytes in JSON
    for line in lines:
        if chunk and (len(chunk) == limits.LOG_LINES_PER_EVENT_MAX or room < len(line)):
            yield chunk
            chunk, room = [], limits.PAYLOAD_BYTES_MAX // 8
        chunk.append(line)
        room -= len(line)
    if chunk:
        yield chunk
