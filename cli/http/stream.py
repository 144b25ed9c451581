"""Server-sent events: one tail of the log for every subscriber of a process.

One thread follows the log and hands each event, written once, to the event loop, which puts it into the queues of those
who want it. A subscriber first catches up from the store and then joins the tail. There is no gap and nothing twice:

- The tail reads settled events in order, and `Hub.position` is the last one that the loop has handed out. Whatever
  stands up to there can be read from the store; whatever comes later is still to be handed out.
- A subscriber reads the store until its cursor is at `Hub.position` or past it, and joins in the same step of the
  loop. What it is handed at or before its cursor it passes over.

A subscriber that does not keep up, live or while it catches up, is cut off; it comes back with `Last-Event-ID`, which
is all that it has to remember. Nothing of it is kept here.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec

from cli.http import limits
from cli.http.metrics import Metrics
from cli.http.problems import Overloaded
from ledger.api import Ledger
from ledger.errors import LedgerError
from ledger.events import RunId
from ledger.facts import RunsFacts
from ledger.filters import Filter, RunFacts
from ledger.interop.cloudevents import cloud_event
from ledger.run.codec import RecordedRunEvent, decode_page
from ledger.run.events import TERMINAL_EVENTS
from ledger.subscription import Subscription

_POSITION_MAX: Final = 2**62
_LOGGER: Final = logging.getLogger("runfold.http")


class Handed(NamedTuple):
    """One event on its way to subscribers."""

    position: int
    version: int
    run_id: str
    type: str
    facts: RunFacts
    frame: bytes
    ends: bool


class Stretch(NamedTuple):
    """What a subscriber caught up by in one step.

    Attributes:
        cursor: Position up to which it has seen the log; of one run's stream, the last event's.
        version: Likewise, of one run's stream.
        ended: Whether the run is closed.
        more: Whether more may follow at once.
    """

    frames: list[bytes]
    cursor: int
    version: int
    ended: bool
    more: bool


@dataclass(slots=True, eq=False)
class Subscriber:
    """One open stream.

    Attributes:
        run_id: Only events of this run; None is the whole log.
        cursor: Position of the last event that was passed on or over.
        begun_after: Where the cursor stood at first.
        version: Likewise its version, of one run's stream.
        waiting: What was handed out and not yet sent.
        cut: Ends the connection at once; its client is too slow to be told.
    """

    wanted: Filter
    cursor: int
    run_id: RunId | None = None
    version: int = 0
    waiting: deque[Handed] = field(default_factory=deque)
    waiting_bytes: int = 0
    is_over: bool = False
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    cut: Callable[[], None] = lambda: None
    begun_after: int = field(init=False)

    def __post_init__(self) -> None:
        self.begun_after = self.cursor

    def offer(self, handed: Handed) -> bool:
        """Take an event if it is wanted and new; False when this subscriber has too much waiting."""
        if handed.position <= self.cursor:
            return True
        if not self.wanted.wants(handed.type, handed.facts) and not (self.run_id is not None and handed.ends):
            if not self.waiting:
                self.cursor = handed.position
            return True
        self.waiting.append(handed)
        self.waiting_bytes += len(handed.frame)
        self.wake.set()
        return len(self.waiting) <= limits.SUBSCRIBER_EVENTS_MAX and self.waiting_bytes <= limits.SUBSCRIBER_BYTES_MAX

    def take(self) -> tuple[list[bytes], bool]:
        """Give the frames that wait, and whether the run ended with them."""
        handed = [each for each in self.waiting if each.position > self.cursor]
        self.waiting.clear()
        self.waiting_bytes = 0
        self.wake.clear()
        if handed:
            self.cursor, self.version = handed[-1].position, handed[-1].version
        frames = [each.frame for each in handed if self.wanted.wants(each.type, each.facts)]
        return frames, self.run_id is not None and any(each.ends for each in handed)


class Hub:
    """The tail of the log, and everybody who follows it. But for the tail's thread, it belongs to one event loop.

    Args:
        log: The ledger.
        facts: What events are filtered by.
        readers: Threads in which subscribers catch up.
        metrics: Counts what is sent and who is cut off.
    """

    def __init__(self, log: Ledger, *, facts: RunsFacts, readers: Executor, metrics: Metrics) -> None:
        self.position = 0
        self._log = log
        self._facts = facts
        self._readers = readers
        self._metrics = metrics
        self._everything: set[Subscriber] = set()
        self._of_runs: dict[str, set[Subscriber]] = {}
        self._open: set[Subscriber] = set()
        self._arrived: list[Handed] = []
        self._is_called = False
        self._mutex = threading.Condition()  # of the two above
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: asyncio.Lock = asyncio.Lock()
        self._waiting: dict[asyncio.Event, Filter] = {}
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._subscription: Subscription | None = None

    @property
    def subscriber_count(self) -> int:
        return len(self._open)

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    @contextmanager
    def waiting(self, wanted: Filter) -> Iterator[asyncio.Event]:
        """Give what is set whenever an event is handed out that is wanted; for who then looks for it in the store.

        Raises:
            Overloaded: when too many wait like this.
        """
        if len(self._waiting) >= limits.FETCHES_MAX:
            raise Overloaded(f"{limits.FETCHES_MAX:,} requests wait for a batch already. Try again in a moment.")
        wake = asyncio.Event()
        self._waiting[wake] = wanted
        try:
            yield wake
        finally:
            del self._waiting[wake]

    def close(self) -> None:
        """End every stream and the tail."""
        self._closed.set()
        for wake in list(self._waiting):
            wake.set()
        for subscriber in self._open:
            subscriber.is_over = True
            subscriber.wake.set()
        if self._subscription is not None:
            with suppress(LedgerError):
                self._subscription.close()

    def join(self, timeout_s: float) -> None:
        """Wait for the tail's thread."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    # --- following --------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to follow the log, once: a server that nobody listens to need not."""
        async with self._starting:
            if self._thread is not None or self._closed.is_set():
                return
            self._loop = asyncio.get_running_loop()
            self.position = await self._loop.run_in_executor(self._readers, self._head)
            self._thread = threading.Thread(target=self._tail, args=(self.position,), name="runfold-tail", daemon=True)
            self._thread.start()

    def _head(self) -> int:
        return self._log.store.read_log(after_position=_POSITION_MAX, limit=1).settled_position

    def _tail(self, position: int) -> None:
        while not self._closed.is_set():
            try:
                with self._log.subscribe(after=position) as events:
                    self._subscription = events
                    for event in events:
                        if self._closed.is_set():
                            return
                        self._hand_over(self._handed(event))
                        position = event.position
            except Exception as error:  # the database is away; what commits meanwhile is read when it is back
                if not self._closed.wait(limits.TAIL_RETRY_S):
                    _LOGGER.warning("the tail of the log goes on after: %s", error)

    def _handed(self, event: RecordedRunEvent) -> Handed:
        facts = self._facts.of_event(event)
        return Handed(
            event.position, event.version, event.run_id, event.type, facts, frame_of(event, facts), _ends(event)
        )

    def _hand_over(self, handed: Handed) -> None:
        """Called by the tail. The loop is called once for all that arrives until it gets to it; a loop that is far
        behind holds the tail up, so that memory stays as it is."""
        with self._mutex:
            while len(self._arrived) >= limits.TAIL_AHEAD_MAX and not self._closed.is_set():
                self._mutex.wait(limits.TAIL_RETRY_S)
            self._arrived.append(handed)
            if self._is_called or self._loop is None:
                return
            self._is_called = True
        with suppress(RuntimeError):  # the loop was closed under us: the server is ending
            self._loop.call_soon_threadsafe(self._hand_out)

    def _hand_out(self) -> None:
        with self._mutex:
            arrived, self._arrived, self._is_called = self._arrived, [], False
            self._mutex.notify()
        for handed in arrived:
            self.position = handed.position
            for subscriber in [*self._everything, *self._of_runs.get(handed.run_id, ())]:
                if not subscriber.offer(handed):
                    self._cut(subscriber)
            for wake, wanted in self._waiting.items():
                if not wake.is_set() and wanted.wants(handed.type, handed.facts):
                    wake.set()

    def _cut(self, subscriber: Subscriber) -> None:
        self._metrics.subscribers_cut += 1
        self._leave(subscriber)
        subscriber.is_over = True
        subscriber.waiting.clear()
        subscriber.wake.set()
        subscriber.cut()

    def _join(self, subscriber: Subscriber) -> None:
        group = self._everything if subscriber.run_id is None else self._of_runs.setdefault(subscriber.run_id, set())
        group.add(subscriber)

    def _leave(self, subscriber: Subscriber) -> None:
        self._everything.discard(subscriber)
        if subscriber.run_id is not None:
            group = self._of_runs.get(subscriber.run_id, set())
            group.discard(subscriber)
            if not group:
                self._of_runs.pop(subscriber.run_id, None)

    # --- one subscriber ---------------------------------------------------------------------------------------

    def require_room(self) -> None:
        """Check that one more can be served.

        Raises:
            Overloaded: when there are too many.
        """
        if len(self._open) >= limits.SUBSCRIBERS_MAX:
            raise Overloaded(f"this process serves {limits.SUBSCRIBERS_MAX:,} subscribers. Try again, or another one.")

    async def chunks(self, subscriber: Subscriber) -> AsyncIterator[bytes]:
        """Give what is to be sent to a subscriber, until its run ends, or the server does.

        An empty chunk says that nothing happened for a while.
        """
        self._open.add(subscriber)
        try:
            async for chunk in self._caught_up(subscriber):
                yield chunk
            while not subscriber.is_over:
                frames, ended = subscriber.take()
                if frames:
                    self._metrics.events_sent += len(frames)
                    yield b"".join(frames)
                if ended:
                    yield await self._last_words(subscriber)
                    return
                if not subscriber.waiting and not subscriber.is_over and not await self._woken(subscriber):
                    yield b""
        finally:
            self._open.discard(subscriber)
            self._leave(subscriber)

    async def _caught_up(self, subscriber: Subscriber) -> AsyncIterator[bytes]:
        """Read the store up to the tail and join it; of one run, read on after joining, for versions tell."""
        loop = asyncio.get_running_loop()
        read = self._read_log if subscriber.run_id is None else self._read_run
        has_joined = subscriber.run_id is None and subscriber.cursor >= self.position
        if has_joined:
            self._join(subscriber)
            return
        while not subscriber.is_over:
            stretch = await loop.run_in_executor(self._readers, read, subscriber)
            subscriber.cursor, subscriber.version = max(subscriber.cursor, stretch.cursor), stretch.version
            if stretch.frames:
                self._metrics.events_sent += len(stretch.frames)
                yield b"".join(stretch.frames)
            if subscriber.run_id is not None and stretch.ended and not stretch.more:
                yield await self._last_words(subscriber)
                subscriber.is_over = True
                return
            if has_joined and not stretch.more:
                return
            if not stretch.more and not has_joined and self._may_join(subscriber):
                self._join(subscriber)
                has_joined = True
                if subscriber.run_id is None:
                    return

    def _may_join(self, subscriber: Subscriber) -> bool:
        """Of one run: join, then read once more; what is handed out in between is known by its position."""
        return subscriber.run_id is not None or subscriber.cursor >= self.position

    async def _woken(self, subscriber: Subscriber) -> bool:
        try:
            async with asyncio.timeout(limits.HEARTBEAT_S):
                await subscriber.wake.wait()
        except TimeoutError:
            return False
        return True

    def _read_log(self, subscriber: Subscriber) -> Stretch:
        page = self._log.store.read_log(after_position=subscriber.cursor, limit=limits.SUBSCRIBER_PAGE)
        events = decode_page(page.events)
        frames = [
            frame_of(event, facts)
            for event, facts in zip(events, self._facts.of_all(events), strict=True)
            if subscriber.wanted.wants(event.type, facts)
        ]
        # what is settled may end in positions that nobody got: the tail stands there too
        cursor = page.last_position if page.more else max(page.last_position, page.settled_position)
        return Stretch(frames, cursor, 0, ended=False, more=page.more)

    def _read_run(self, subscriber: Subscriber) -> Stretch:
        assert subscriber.run_id is not None
        page = self._log.store.read_run(
            subscriber.run_id, after_version=subscriber.version, limit=limits.SUBSCRIBER_PAGE
        )
        events = decode_page(page.events)
        facts = self._facts.of(subscriber.run_id)
        frames = [
            frame_of(event, facts)
            for event in events
            # not after its cursor: while this reads, the tail may move that past what was handed out before it joined
            if event.position > subscriber.begun_after and subscriber.wanted.wants(event.type, facts)
        ]
        last = events[-1] if events else None
        ended = self._log.state(subscriber.run_id).is_terminal if not page.more else False
        return Stretch(
            frames,
            page.last_position if last is None else last.position,
            subscriber.version if last is None else last.version,
            ended=ended,
            more=page.more,
        )

    async def _last_words(self, subscriber: Subscriber) -> bytes:
        assert subscriber.run_id is not None
        state = await asyncio.get_running_loop().run_in_executor(self._readers, self._log.state, subscriber.run_id)
        data = {
            "run_id": state.run_id,
            "status": state.status,
            "verdict": state.verdict,
            "version": state.version,
        }
        return b"event: end\ndata: %b\n\n" % msgspec.json.encode(data)


def _ends(event: RecordedRunEvent) -> bool:
    return isinstance(event.data, TERMINAL_EVENTS)


def frame_of(event: RecordedRunEvent, facts: RunFacts) -> bytes:
    """Write an event as one server-sent event: its position as the id, its CloudEvent as the data."""
    data = msgspec.json.encode(cloud_event(event, project=facts.project))
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event.position, event.type.encode(), data)


def opening(cursor: int) -> bytes:
    """Give what a stream begins with: how long to wait before coming back, and from where on."""
    return b"retry: %d\nid: %d\n\n" % (limits.RECONNECT_MS, cursor)


def heartbeat(cursor: int) -> bytes:
    """Give what a silent stream says: a comment, and the position that a filter has passed over to."""
    return b": still here\nid: %d\n\n" % cursor


def filtered(query: Any, *, labels: dict[str, str], projects: frozenset[str] | None) -> Filter:
    """Make the filter of a query."""
    return Filter(
        types=frozenset(query.type),
        project=getattr(query, "project", None),
        kind=getattr(query, "kind", None),
        labels=labels,
        projects=projects,
    )


def select(
    log: Ledger, facts: RunsFacts, wanted: Filter, *, after: int, limit: int
) -> tuple[Sequence[RecordedRunEvent], int, bool]:
    """Read the log for events that are wanted.

    Returns:
        At most `limit` events; the position up to which was looked, which ends after a stretch of events that nobody
        wants as well; and whether more may follow at once.
    """
    page = log.store.read_log(after_position=after, limit=limit if wanted == Filter() else limits.PAGE_EVENTS_MAX)
    events = decode_page(page.events)
    found: list[RecordedRunEvent] = []
    for event, known in zip(events, facts.of_all(events), strict=True):
        if wanted.wants(event.type, known):
            if len(found) == limit:
                return found, found[-1].position, True
            found.append(event)
    return found, page.last_position, page.more
