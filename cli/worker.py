"""`Worker`: claims work, executes it with Python handlers, and keeps its leases alive.

    from cli.worker import Worker

    def run_tests(work):
        for test in work.plan:
            if work.is_stopped:
                return None
            work.append_results([execute(test)])
        return "s3://reports/1"

    with ledger.open(url) as log:
        Worker(log, {"test": run_tests}).run()

One thread claims, a pool executes, and one keeper renews every lease in one statement, hears of aborts and lost leases,
and sweeps what other workers left behind. What a handler writes goes through `work.log`, which checks the lease: after
it went to another worker, nothing that this one writes gets in.
"""

import asyncio
import inspect
import logging
import os
import random
import socket
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from enum import Enum
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from ledger import limits
from ledger.api import Ledger, Outcome
from ledger.clock import monotonic
from ledger.errors import LeaseLost, LedgerError, OutcomeUnknown, StoreUnavailable
from ledger.ids import new_event_ids
from ledger.queue import Swept
from ledger.run.leases import Lease, Purpose
from ledger.run.values import JsonObject
from ledger.store import Listener

_T = TypeVar("_T")

GRACE_S: Final = 30.0
"""How long handlers get to end by themselves before their work is handed back."""
LOOK_S: Final = 0.4
"""How often a worker asks whether its work is still wanted: well within the second in which an abort has to arrive."""
SWEEP_S: Final = 5.0
"""How often a worker looks for leases that are over; each waits a random part of that longer."""
IDLE_S: Final = 1.0
"""How often an idle worker looks for work when no wake-up comes."""
PAUSE_S: Final = 0.02
"""The least time between two looks for work that find none: a busy log wakes a worker with each of its appends."""
RETRY_S: Final = 0.5

logger = logging.getLogger("runfold.worker")


class WorkFailed(Exception):
    """Raised by a handler to say how its work failed: the text is the run's error, as it is.

    Attributes:
        category: A word for it, for programs.
        is_retryable: Whether another attempt may help.
    """

    is_retryable = True

    def __init__(self, error: str, *, category: str | None = None) -> None:
        super().__init__(error)
        self.category = category or type(self).__name__


class NotRetryable(WorkFailed):
    """Raised by a handler whose work no further attempt can do."""

    is_retryable = False


class Stopped(Enum):
    """Why a handler should end."""

    ABORT_REQUESTED = "abort_requested"
    CLOSED = "closed"
    """The run has ended, or the lease went to another worker."""
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"


@dataclass(slots=True, eq=False)
class Work:
    """One piece of work, as its handler sees it.

    Attributes:
        lease: What this worker holds.
        log: The ledger, writing under the lease.
        why_stopped: Why the handler should end; None while it may go on.
        stopped_at: Since when, by the monotonic clock.
    """

    lease: Lease
    log: Ledger
    why_stopped: Stopped | None = None
    began_at: float = field(default_factory=monotonic)
    stopped_at: float = 0.0
    _stopped: threading.Event = field(default_factory=threading.Event)
    _is_abandoned: bool = False

    @property
    def run_id(self) -> str:
        return self.lease.run_id

    @property
    def input(self) -> JsonObject:
        return self.lease.input

    @property
    def plan(self) -> list[str]:
        """Ids of the tests that are to be run, where they were planned."""
        return self.lease.plan

    @property
    def shard(self) -> int | None:
        return self.lease.shard

    @property
    def is_stopped(self) -> bool:
        """Whether the handler should end; what it returns or raises then does not matter."""
        return self._stopped.is_set()

    def wait_stopped(self, timeout_s: float) -> bool:
        """Sleep, but not beyond the moment in which the handler should end."""
        return self._stopped.wait(timeout_s)

    def append_results(self, results: Sequence[Mapping[str, Any]], *, first_sequence: int | None = None) -> int:
        """Append test results of this work; see `Ledger.append_results`."""
        return self.log.append_results(self.run_id, results, first_sequence=first_sequence)

    def stop(self, why: Stopped) -> None:
        """Tell the handler to end; the first reason counts."""
        if not self._stopped.is_set():
            self.why_stopped, self.stopped_at = why, monotonic()
            self._stopped.set()


Handler = Callable[[Work], Any]
"""Does the work: returns a reference to its output or None, raises when it failed. May be a coroutine function."""
Observer = Callable[[str, Work, Mapping[str, Any]], None]
"""Is told `claimed`, `succeeded`, `failed`, `lost` and `handed_back`, for metrics and traces."""

Within = Callable[[Work], AbstractContextManager[None]]


class Worker:
    """Executes runs and shards of some kinds.

    Args:
        log: The ledger; the worker keeps no other connection than this one's.
        handlers: What executes each kind; only these kinds are claimed.
        finalizers: What finishes a run of a kind whose shards are done; without one it is just completed.
        name: Who works; no other process may have it. None makes one of host and process id.
        concurrency: How much is executed at once, each in a thread.
        lease_s: After how long without a heartbeat the work goes to another.
        grace_s: How long handlers get to end, at shutdown, after a timeout and when an abort was requested. The work
            of one that does not is settled without it; its thread is lost.
        observer: Is told what happens.
        within: Opens what a handler is executed within and its outcome written, such as a span; it may bind `work.log`.
        on_swept: Is told what this worker settled for others.
        sweeps: Whether this worker settles what others left behind.
    """

    def __init__(
        self,
        log: Ledger,
        handlers: Mapping[str, Handler],
        *,
        finalizers: Mapping[str, Handler] | None = None,
        name: str | None = None,
        concurrency: int = 4,
        lease_s: float = limits.LEASE_S,
        grace_s: float = GRACE_S,
        observer: Observer | None = None,
        within: Within | None = None,
        on_swept: Callable[[Sequence[Swept]], None] | None = None,
        sweeps: bool = True,
    ) -> None:
        self.name = name or f"{socket.gethostname()}:{os.getpid()}"
        self._log = log.bind(actor=self.name)
        self._handlers = dict(handlers)
        self._finalizers = dict(finalizers or {})
        self._concurrency = concurrency
        self._lease_s = lease_s
        self._grace_s = grace_s
        self._observe = observer or _ignore
        self._within = within or nullcontext
        self._on_swept = on_swept or _ignore_swept
        self._sweeps = sweeps
        self._held: set[Work] = set()
        self._changed = threading.Condition()
        self._is_asked_to_stop = False
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._listener: Listener | None = None
        self._loop: _Loop | None = None
        if any(inspect.iscoroutinefunction(handler) for handler in (*handlers.values(), *self._finalizers.values())):
            self._loop = _Loop()

    def stop(self) -> None:
        """Claim no more, let what runs end, and make `run` return. May be called from a signal handler.

        It sets an attribute and nothing else. A handler interrupts its thread anywhere, also where that holds the lock
        of an event or of the listener, and would wait for it for ever. The keeper does the rest, within `LOOK_S`.
        """
        self._is_asked_to_stop = True

    def run(self, *, until_idle: bool = False) -> None:
        """Work until `stop` is called.

        Args:
            until_idle: Return as soon as nothing is left to be claimed and nothing runs.
        """
        keeper = threading.Thread(target=self._keep, name="runfold keeper", daemon=True)
        threads = _Threads(self._concurrency)
        self._listener = self._log.store.listen()
        keeper.start()
        try:
            self._claim_and_execute(threads, until_idle=until_idle)
        finally:
            self._shut_down(threads)
            self._ended.set()
            keeper.join()
            self._listener.close()
            if self._loop is not None:
                self._loop.close()

    # --- claiming -------------------------------------------------------------------------------------------

    def _claim_and_execute(self, threads: "_Threads", *, until_idle: bool) -> None:
        while not (self._is_asked_to_stop or self._stopping.is_set()):
            free = self._wait_for_room()
            leases = self._claim(free) if free else []
            for lease in leases:
                self._begin(threads, lease)
            if not leases:
                if until_idle and self._is_free() and not (free and self._is_something_waiting()):
                    return
                if free:
                    self._wait_for_work()

    def _wait_for_room(self) -> int:
        with self._changed:
            self._changed.wait_for(
                lambda: len(self._held) < self._concurrency or self._stopping.is_set(), timeout=IDLE_S
            )
            return max(0, self._concurrency - len(self._held))

    def _claim(self, count: int) -> list[Lease]:
        try:
            return self._log.claim(
                self.name,
                kinds=list(self._handlers),
                limit=min(count, limits.TASKS_PER_CLAIM_MAX),
                lease_s=self._lease_s,
            )
        except (StoreUnavailable, OutcomeUnknown) as error:  # an unknown claim is a lease that will run out
            logger.warning("could not claim: %s", error)
            self._stopping.wait(RETRY_S * (1 + random.random()))
            return []

    def _is_something_waiting(self) -> bool:
        """Tell whether there is work of ours: a claim passes over a run that others write to just then."""
        try:
            counts = self._log.store.tasks.count(kinds=list(self._handlers))
        except StoreUnavailable:
            return True
        return any(state == "waiting" for _, state in counts)

    def _wait_for_work(self) -> None:
        """Sleep until something was appended, a task may be due, or somebody's lease may be over."""
        assert self._listener is not None
        if self._stopping.wait(PAUSE_S):
            return
        with suppress(LedgerError):
            due_s = self._log.store.tasks.next_due()
            timeout_s = IDLE_S * (0.75 + random.random() / 2)
            self._listener.wait(timeout_s if due_s is None else min(timeout_s, max(PAUSE_S, due_s)))
            return
        self._stopping.wait(RETRY_S)

    def _begin(self, threads: "_Threads", lease: Lease) -> None:
        work = Work(lease, self._log.bind(traceparent=lease.traceparent).under(lease))
        self._tell("claimed", work)
        with self._changed:
            self._held.add(work)
        threads.start(lambda: self._execute(work))

    # --- executing ------------------------------------------------------------------------------------------

    def _execute(self, work: Work) -> None:
        try:
            with self._within(work):
                self._execute_and_settle(work)
        except Exception:
            logger.exception("could not settle %s; its lease will run out", _what(work), extra=_facts(work))
        finally:
            with self._changed:
                self._held.discard(work)
                self._changed.notify_all()

    def _execute_and_settle(self, work: Work) -> None:
        try:
            try:
                output_ref = self._handle(work)
            except Exception as error:
                self._failed(work, error)
            else:
                self._ended_well(work, output_ref)
        except LeaseLost:
            self._tell("lost", work)

    def _handle(self, work: Work) -> str | None:
        handler = self._handlers[work.lease.kind]
        if work.lease.purpose is Purpose.FINALIZE:
            finalizer = self._finalizers.get(work.lease.kind)
            if finalizer is None:
                return None
            handler = finalizer
        if inspect.iscoroutinefunction(handler):
            assert self._loop is not None
            given = self._loop.run(handler(work))
        else:
            given = handler(work)
        return None if given is None else str(given)

    def _ended_well(self, work: Work, output_ref: str | None) -> None:
        if work.is_stopped:
            self._stopped(work)
            return
        event_id = new_event_ids(1)[0]
        outcome = self._settle(lambda: self._log.succeed(work.lease, output_ref=output_ref, event_id=event_id))
        self._tell("succeeded" if outcome else "lost", work)

    def _failed(self, work: Work, error: Exception) -> None:
        if isinstance(error, LeaseLost):
            raise error
        if work.is_stopped:
            self._stopped(work)
            return
        logger.warning("%s failed: %s", _what(work), error, extra=_facts(work))
        if isinstance(error, WorkFailed):
            self._give_up(work, str(error), category=error.category, is_retryable=error.is_retryable)
            return
        name, told = type(error).__name__, "".join(traceback.format_exception(error)).rstrip()
        self._give_up(work, f"{name}: {error}\n\n{told}", category=name, is_retryable=True)

    def _stopped(self, work: Work) -> None:
        """Settle work whose handler was told to end, and did."""
        match work.why_stopped:
            case Stopped.TIMEOUT:
                timeout_s = work.lease.policy.timeout_s
                self._give_up(work, f"timed out after {timeout_s} s", category="timeout", is_retryable=True)
            case Stopped.ABORT_REQUESTED:
                self._settle(lambda: work.log.abort(work.run_id, reason="an abort was requested"))
                self._tell("lost", work)
            case Stopped.SHUTDOWN:
                self._hand_back(work)
            case _:
                self._tell("lost", work)

    def _give_up(self, work: Work, error: str, *, category: str, is_retryable: bool) -> None:
        event_id = new_event_ids(1)[0]
        self._settle(
            lambda: self._log.give_up(
                work.lease, error=error, category=category, is_retryable=is_retryable, event_id=event_id
            )
        )
        self._tell("failed", work, category=category)

    def _hand_back(self, work: Work) -> None:
        self._settle(lambda: self._log.hand_back(work.lease, reason=f"{self.name} shuts down"))
        self._tell("handed_back", work)

    def _settle(self, write: Callable[[], Outcome]) -> Outcome:
        """Write, again while the ledger is out of reach; after the lease's length somebody else has the work."""
        give_up_at = monotonic() + self._lease_s
        while True:
            try:
                return write()
            except OutcomeUnknown as unknown:
                with suppress(StoreUnavailable, OutcomeUnknown):
                    appended = self._log.resolve(unknown)
                    return Outcome(appended.run_id, True, None)
            except StoreUnavailable:
                if monotonic() >= give_up_at:
                    raise
            if self._ended.wait(RETRY_S) and monotonic() >= give_up_at:
                raise StoreUnavailable("the ledger stayed out of reach until the lease was over.")

    # --- keeping leases -------------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Renew leases, look for aborts and timeouts, and sweep, until the worker has ended."""
        renew_at = monotonic() + self._lease_s / 3
        sweep_at = monotonic() + SWEEP_S * random.random()
        look_s = min(LOOK_S, self._lease_s / 3)
        while not self._ended.wait(look_s):
            try:
                if self._is_asked_to_stop and not self._stopping.is_set():
                    self._stop_claiming()
                renew = monotonic() >= renew_at
                self._look(renews=renew)
                if renew:
                    renew_at = monotonic() + self._lease_s / 3
                if self._sweeps and monotonic() >= sweep_at:
                    sweep_at = monotonic() + SWEEP_S * (1 + random.random())
                    self._sweep()
            except LedgerError as error:
                logger.warning("could not keep the leases: %s", error)
            except Exception:
                logger.exception("could not keep the leases")

    def _stop_claiming(self) -> None:
        self._stopping.set()
        if self._listener is not None:
            self._listener.close()
        with self._changed:
            self._changed.notify_all()

    def _look(self, *, renews: bool) -> None:
        with self._changed:
            works = list(self._held)
        leases = [work.lease for work in works]
        answers = self._log.heartbeat(leases, lease_s=self._lease_s) if renews else self._log.look(leases)
        for work, answer in zip(works, answers, strict=True):
            if not answer.is_held:
                work.stop(Stopped.CLOSED)
            elif answer.abort_requested:
                work.stop(Stopped.ABORT_REQUESTED)
            elif _is_overdue(work):
                work.stop(Stopped.TIMEOUT)
            if work.is_stopped and not self._stopping.is_set() and monotonic() - work.stopped_at > self._grace_s:
                self._abandon(work)

    def _abandon(self, work: Work) -> None:
        """Settle work whose handler does not end: its thread is lost to us, but the run need not wait for it."""
        if not work._is_abandoned:
            logger.error("%s does not end; its thread is lost", _what(work), extra=_facts(work))
            with suppress(LeaseLost):
                self._stopped(work)
            work._is_abandoned = True
            with self._changed:
                self._changed.notify_all()

    def _sweep(self) -> list[Swept]:
        swept = self._log.sweep()
        for one in swept:
            logger.info("the lease of %s on run %s was over: %s", one.worker, one.run_id, ", ".join(one.events))
        self._on_swept(swept)
        return swept

    # --- ending ---------------------------------------------------------------------------------------------

    def _shut_down(self, threads: "_Threads") -> None:
        """Let handlers end; tell those that do not that they have to; hand back what is left."""
        self._stopping.set()
        threads.stop()
        if not self._wait_until_free(self._grace_s):
            for work in self._left():
                work.stop(Stopped.SHUTDOWN)
            self._wait_until_free(self._grace_s)
        for work in self._left():
            with suppress(LedgerError):
                self._hand_back(work)

    def _wait_until_free(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(self._is_free, timeout_s)

    def _is_free(self) -> bool:
        """Tell whether nothing runs but what was given up."""
        return not self._left()

    def _left(self) -> list[Work]:
        with self._changed:
            return [work for work in self._held if not work._is_abandoned]

    def _tell(self, event: str, work: Work, **facts: Any) -> None:
        logger.info("%s %s", event, _what(work), extra=_facts(work))
        try:
            self._observe(event, work, facts)
        except Exception:
            logger.exception("an observer failed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Threads:
    """Threads that execute work, one a piece, each again and again.

    They are daemons, unlike those of a `ThreadPoolExecutor`, for which a process waits at its end: a handler that never
    ends must not keep its worker from ending.
    """

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._count = 0
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)

    def start(self, execute: Callable[[], None]) -> None:
        """Execute in a thread that has nothing to do, or in a new one while there may be more."""
        if not self._idle.acquire(blocking=False) and self._count < self._count_max:
            self._count += 1
            threading.Thread(target=self._loop, name=f"runfold work {self._count}", daemon=True).start()
        self._work.put(execute)

    def stop(self) -> None:
        """Let each thread end when it has nothing to do."""
        for _ in range(self._count):
            self._work.put(None)

    def _loop(self) -> None:
        while (execute := self._work.get()) is not None:
            execute()
            self._idle.release()


class _Loop:
    """An event loop in a thread, for handlers that are coroutines."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="runfold loop", daemon=True)
        self._thread.start()

    def run(self, coroutine: Any) -> Any:
        """Run a coroutine to its end, from a thread of the pool."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        if not self._thread.is_alive():
            self._loop.close()


def _is_overdue(work: Work) -> bool:
    timeout_s = work.lease.policy.timeout_s
    return timeout_s is not None and monotonic() - work.began_at >= timeout_s


def _what(work: Work) -> str:
    part = "" if work.shard is None else f"shard {work.shard} of "
    return f"{part}run {work.run_id} ({work.lease.kind}, attempt {work.lease.attempt})"


def _facts(work: Work) -> dict[str, Any]:
    """Give what a structured log line carries."""
    lease = work.lease
    return {
        "run_id": lease.run_id,
        "kind": lease.kind,
        "project": lease.project,
        "shard": lease.shard,
        "attempt": lease.attempt,
        "worker": lease.worker,
        "purpose": lease.purpose.value,
        "traceparent": work.log.traceparent,
    }


def _ignore(event: str, work: Work, facts: Mapping[str, Any]) -> None:
    pass


def _ignore_swept(swept: Sequence[Swept]) -> None:
    pass
