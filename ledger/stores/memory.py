"""The log in memory: for tests of what stands on a store, and the plainest statement of what a store does.

Differs from its siblings: nothing is durable, and no other process sees it.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ledger.errors import (
    EventIdReused,
    LedgerError,
    RunClosed,
    RunNotFound,
    RunPurged,
    ShardSuperseded,
    StoreUnavailable,
    VersionConflict,
)
from ledger.events import PURGE_FENCE, EventId, NewEvent, Page, RunId, join_page
from ledger.store import Appended, AppendRequest, KeyClaim, KeyTaken, Rule
from ledger.stores.memory_consumers import Kept, MemoryConsumers
from ledger.stores.memory_tasks import FOLLOWED, MemoryTasks, Rows, copy_rows, follow


@dataclass(slots=True)
class _Stored:
    position: int
    run_id: RunId
    version: int
    event: NewEvent


class MemoryStore:
    """A log that lives as long as the object."""

    def __init__(self) -> None:
        self.url = "memory:"
        self.lock = threading.RLock()
        """Held during every change; projections in memory share it."""
        self.tables: dict[str, Any] = {}
        """Tables of projections, by name; the log itself never looks at them."""
        self._appended = threading.Condition(self.lock)
        self._log: list[_Stored] = []
        self._streams: dict[RunId, list[_Stored]] = {}
        self._by_event_id: dict[EventId, _Stored] = {}
        self._keys: dict[tuple[str, str, str], tuple[RunId, KeyClaim]] = {}
        self._tasks: Rows = {}
        self._consumers: Kept = {}
        self._erased: list[tuple[_Stored, NewEvent]] = []  # in the present turn, as they were
        self._is_closed = False

    def key_holder(self, *, space: str, project: str, key: str) -> RunId | None:
        with self.opened():
            held = self._keys.get((space, project, key))
        return None if held is None else held[0]

    @property
    def tasks(self) -> MemoryTasks:
        return MemoryTasks(self, self._tasks)

    @property
    def consumers(self) -> MemoryConsumers:
        return MemoryConsumers(self, self._consumers)

    def version(self, run_id: RunId) -> int:
        """Give where a stream stands."""
        return len(self._streams.get(run_id, ()))

    def append(self, request: AppendRequest) -> Appended:
        with self.opened():
            duplicate = self._duplicate(request)
            if duplicate is not None:
                return duplicate
            self._check(request)
            return self._write(request)

    def append_all(self, requests: Sequence[AppendRequest]) -> list[Appended | Exception]:
        results: list[Appended | Exception] = []
        for request in requests:
            try:
                results.append(self.append(request))
            except LedgerError as error:
                results.append(error)
        return results

    @contextmanager
    def in_turn(self, run_id: RunId) -> Iterator["MemoryStore"]:
        with self.opened():
            size, keys, tasks = len(self._log), dict(self._keys), copy_rows(self._tasks)
            self._erased = []
            try:
                yield self
            except BaseException:
                self._roll_back(size, keys, tasks)
                raise

    def erase(self, run_id: RunId, *, after_version: int, up_to: int, limit: int) -> int:
        with self.opened():
            end = min(up_to, after_version + limit)
            for stored in self._streams.get(run_id, [])[after_version:end]:
                self._erased.append((stored, stored.event))
                stored.event = stored.event._replace(payload=b"", salt=b"")
        return end

    def read_run(self, run_id: RunId, *, after_version: int, limit: int) -> Page:
        with self.opened():
            stream = self._streams.get(run_id, [])
            rows = stream[after_version : after_version + limit]
        more = after_version + len(rows) < len(stream)
        return _page(rows, after_position=0, settled_position=0, more=more)

    def read_log(self, *, after_position: int, limit: int, unsettled: bool = False) -> Page:
        with self.opened():
            rows = self._log[after_position : after_position + limit]  # positions are 1, 2, 3 … here
            settled = len(self._log)
        return _page(rows, after_position=after_position, settled_position=settled, more=len(rows) == limit)

    def find(self, event_ids: Sequence[EventId]) -> dict[EventId, tuple[RunId, int, int]]:
        with self.opened():
            found = [(event_id, self._by_event_id.get(event_id)) for event_id in event_ids]
        return {event_id: (it.run_id, it.version, it.position) for event_id, it in found if it is not None}

    def listen(self) -> "_MemoryListener":
        return _MemoryListener(self._appended, self._log)

    def close(self) -> None:
        with self.lock:
            self._is_closed = True
            self._appended.notify_all()

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Keep everybody else out for the block."""
        with self.lock:
            if self._is_closed:
                raise StoreUnavailable("the ledger in memory was closed. Open it again, which begins an empty one.")
            yield

    def _duplicate(self, request: AppendRequest) -> Appended | None:
        known = [self._by_event_id.get(event.event_id) for event in request.events]
        found = [stored for stored in known if stored is not None]
        if not found:
            ids = [event.event_id for event in request.events]
            if len(set(ids)) < len(ids):
                raise EventIdReused(event_id=ids[0])
            return None
        for index, (stored, event) in enumerate(zip(known, request.events, strict=True)):
            is_same = (
                stored is not None
                and stored.run_id == request.run_id
                and stored.version == found[0].version + index
                and stored.event.type == event.type
                and stored.event.payload in (b"", event.payload)  # an erased payload cannot be compared any more
            )
            if not is_same:
                raise EventIdReused(event_id=event.event_id)
        return Appended(request.run_id, found[-1].version, [stored.position for stored in found], True)

    def _check(self, request: AppendRequest) -> None:
        run_id, condition = request.run_id, request.condition
        stream = self._streams.get(run_id, [])
        version = len(stream)
        closed = next((stored.version for stored in stream if stored.event.closes), 0)
        if condition.rule in (Rule.EXISTS, Rule.UNLESS_CLOSED) and not stream:
            raise RunNotFound(run_id)
        expected = {Rule.NO_RUN: 0, Rule.EXACTLY: condition.version}.get(condition.rule)
        if expected is not None and expected != version:
            raise VersionConflict(run_id=run_id, expected_version=expected, version=version)
        if closed and (condition.rule is Rule.UNLESS_CLOSED or any(event.closes for event in request.events)):
            raise RunClosed(run_id=run_id, closed_version=closed)
        if condition.rule is Rule.EXISTS and any(stored.event.fence == PURGE_FENCE for stored in stream):
            raise RunPurged(run_id=run_id)
        if condition.fence is not None:
            epochs = [s.event.fence_epoch or 0 for s in stream if s.event.fence == condition.fence]
            if max(epochs, default=0) > condition.epoch:
                raise ShardSuperseded(
                    run_id=run_id, fence=condition.fence, attempt=condition.epoch, newest_attempt=max(epochs)
                )
        for claim in request.claims:
            held = self._keys.get((claim.space, claim.project, claim.key))
            if held is not None:
                raise KeyTaken(claim=claim, run_id=held[0], fingerprint=held[1].fingerprint)

    def _write(self, request: AppendRequest) -> Appended:
        run_id = request.run_id
        stream = self._streams.setdefault(run_id, [])
        positions = []
        for event in request.events:
            stored = _Stored(len(self._log) + 1, run_id, len(stream) + 1, event)
            self._log.append(stored)
            stream.append(stored)
            self._by_event_id[event.event_id] = stored
            positions.append(stored.position)
            self._follow(stored)
        for claim in request.claims:
            self._keys[claim.space, claim.project, claim.key] = (run_id, claim)
        if any(event.closes for event in request.events):
            for key in [key for key, held in self._keys.items() if held[0] == run_id and held[1].until_closed]:
                del self._keys[key]
        self._appended.notify_all()
        return Appended(run_id, len(stream), positions)

    def _follow(self, stored: _Stored) -> None:
        if stored.event.closes:
            for key in [key for key in self._tasks if key[0] == stored.run_id]:
                del self._tasks[key]
        elif stored.event.type in FOLLOWED:
            follow(self._tasks, stored.run_id, stored.version, stored.position, stored.event.payload)

    def _roll_back(self, size: int, keys: dict[tuple[str, str, str], tuple[RunId, KeyClaim]], tasks: Rows) -> None:
        for stored in self._log[size:]:
            self._streams[stored.run_id].pop()
            del self._by_event_id[stored.event.event_id]
        del self._log[size:]
        self._keys = keys
        self._tasks.clear()
        self._tasks.update(tasks)
        for stored, event in reversed(self._erased):
            stored.event = event


class _MemoryListener:
    def __init__(self, appended: threading.Condition, log: list[_Stored]) -> None:
        self._appended = appended
        self._log = log
        self._seen = len(log)
        self._closed = False

    def wait(self, timeout_s: float) -> bool:
        with self._appended:
            is_woken = self._appended.wait_for(lambda: self._closed or len(self._log) > self._seen, timeout_s)
            self._seen = len(self._log)
            return is_woken

    def close(self) -> None:
        with self._appended:
            self._closed = True
            self._appended.notify_all()


def _page(rows: list[_Stored], *, after_position: int, settled_position: int, more: bool) -> Page:
    events = join_page([(row.position, row.version, row.event.envelope, row.event.payload) for row in rows])
    last = rows[-1].position if rows else after_position
    return Page(events, len(rows), last, settled_position, more)
