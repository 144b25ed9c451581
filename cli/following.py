"""Follows the log from the main thread, which stays free for Ctrl-C, deadlines and a clock that ticks."""

import queue
import threading
from collections.abc import Iterator
from typing import Final

from ledger.api import Ledger
from ledger.clock import monotonic
from ledger.run.codec import RecordedRunEvent

TICK_S: Final = 0.2
"""How long a follower waits for an event before its caller may do something else."""
_EVENTS_AHEAD_MAX: Final = 1_000
_CLOSED_LOOK_S: Final = 0.1


def follow(
    log: Ledger, *, after: int, run_id: str | None = None, timeout_s: float | None = None
) -> Iterator[RecordedRunEvent | None]:
    """Give events as they come; None when none came for a moment. Endless: the caller knows when to stop.

    Args:
        log: The ledger.
        after: The position of the last event seen.
        run_id: Only events of this run.
        timeout_s: When to give up; None is never.

    Raises:
        TimeoutError: when the time is over.
        LedgerError: what the subscription met.
    """
    deadline = None if timeout_s is None else monotonic() + timeout_s
    arrivals: queue.Queue[RecordedRunEvent | BaseException] = queue.Queue(_EVENTS_AHEAD_MAX)
    closed = threading.Event()
    with log.subscribe(after=after, run_id=run_id) as events:

        def read() -> None:
            try:
                for event in events:
                    if not _put(arrivals, event, closed):
                        return
            except BaseException as error:  # handed over: it belongs to whoever follows
                _put(arrivals, error, closed)

        reader = threading.Thread(target=read, name="runfold follow", daemon=True)
        reader.start()
        try:
            while True:
                event = _next(arrivals)
                if isinstance(event, BaseException):
                    raise event
                yield event
                if deadline is not None and monotonic() >= deadline:
                    raise TimeoutError
        finally:
            closed.set()
            events.close()
            reader.join()


def _next(arrivals: "queue.Queue[RecordedRunEvent | BaseException]") -> RecordedRunEvent | BaseException | None:
    try:
        return arrivals.get(timeout=TICK_S)
    except queue.Empty:
        return None


def _put(
    arrivals: "queue.Queue[RecordedRunEvent | BaseException]",
    arrival: RecordedRunEvent | BaseException,
    closed: threading.Event,
) -> bool:
    while not closed.is_set():
        try:
            arrivals.put(arrival, timeout=_CLOSED_LOOK_S)
        except queue.Full:
            continue
        return True
    return False
