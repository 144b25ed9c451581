"""A live reader of the log: catch up, then wait, with one cursor for both.

The cursor is the position of the last event that was read, so there is no seam between what was and what comes: live
delivery is the same read, made again when something wakes it. A lost wake-up costs at most one poll interval. While the
database is out of reach, such as for a restart, the read is made again for `limits.OUTAGE_S`.
"""

import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from ledger import limits
from ledger.clock import monotonic
from ledger.errors import StoreUnavailable
from ledger.events import RunId
from ledger.run.codec import RecordedRunEvent, decode_joined
from ledger.store import Store


class Subscription:
    """An iterator over events that waits for the next one until it is closed.

    Args:
        store: The log.
        after: The position of the last event seen.
        types: Only events of these types; None is all.
        run_id: Only events of this run; None is all.

    Attributes:
        position: Of the last event that was delivered or passed over: what to remember, and to start after next time.
    """

    def __init__(self, store: Store, *, after: int, types: frozenset[str] | None, run_id: RunId | None) -> None:
        self.position = after
        self._store = store
        self._types = types
        self._run_id = run_id
        self._closed = threading.Event()
        self._listener = store.listen()  # before the first read: what commits in between wakes us
        self._events = self._follow()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> RecordedRunEvent:
        return next(self._events)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the subscription, from any thread: a waiting iteration stops."""
        self._closed.set()
        self._listener.close()

    def _follow(self) -> Iterator[RecordedRunEvent]:
        read_at = monotonic()
        while not self._closed.is_set():
            try:
                page = self._store.read_log(after_position=self.position, limit=limits.PAGE_EVENTS)
            except StoreUnavailable:
                if self._closed.is_set():
                    return  # the ledger was closed under us, and closed us first
                if monotonic() - read_at >= limits.OUTAGE_S:
                    raise
                self._closed.wait(limits.OUTAGE_PAUSE_S)
                continue
            for joined in page.events:
                for event in decode_joined(joined):
                    self.position = event.position
                    if self._wants(event):
                        yield event
                        if self._closed.is_set():
                            return
            self.position = page.last_position
            if not page.count:
                while not self._listener.wait(limits.POLL_INTERVAL_S):
                    pass
            read_at = monotonic()  # after the events were taken, for however long that took

    def _wants(self, event: RecordedRunEvent) -> bool:
        return (self._types is None or event.type in self._types) and (
            self._run_id is None or event.run_id == self._run_id
        )
