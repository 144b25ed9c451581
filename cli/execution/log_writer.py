"""Appends a run's output to its log in the background, batched by time and count.

What is appended carries an event id of the writer's making. While the ledger is out of reach, or the outcome of an
append is unknown, it is sent again under the same id, and nothing after it is sent: no line is doubled, and each
shard's source keeps its order.
"""

import threading
from collections import deque
from typing import Final

from cli.settling import SETTLE_S, in_words
from ledger.api import Ledger, log_chunks
from ledger.clock import monotonic
from ledger.errors import OutcomeUnknown, StoreUnavailable
from ledger.ids import new_event_ids

BATCH_S: Final = 0.25
BATCH_LINES: Final = 200
WAITING_LINES_MAX: Final = 50_000
"""With more waiting, the executor reads no further, and the commands wait at their pipes."""
WAITING_CHARS_MAX: Final = 32 * 1024 * 1024
"""Likewise: a line may have thousands of characters."""
RETRY_S: Final = 0.5
TRY_S: Final = SETTLE_S
"""How long an append is tried on a ledger that is out of reach; then its lines are given up, and counted."""


class LogWriter:
    """A background writer of output lines, in the order of each shard's source.

    Args:
        log: The ledger; used from the writer's thread.
        run_id: The run.

    Attributes:
        lost: How many lines could not be written.
        reason: Why the first of them could not, in words for a user.
    """

    def __init__(self, log: Ledger, run_id: str) -> None:
        self.lost = 0
        self.reason: str | None = None
        self._log = log
        self._run_id = run_id
        self._waiting: deque[tuple[int | None, str, str]] = deque()
        self._waiting_chars = 0
        self._oldest_at = 0.0
        self._closing_at: float | None = None
        self._is_given_up = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._write_all, name="runfold log", daemon=True)
        self._thread.start()

    @property
    def is_full(self) -> bool:
        """Whether the writer is so far behind that no more should be handed over."""
        return len(self._waiting) >= WAITING_LINES_MAX or self._waiting_chars >= WAITING_CHARS_MAX

    def put(self, shard: int | None, source: str, line: str) -> None:
        """Hand over one line."""
        with self._changed:
            if not self._waiting:
                self._oldest_at = monotonic()
            self._waiting.append((shard, source, line))
            self._waiting_chars += len(line)
            if len(self._waiting) in (1, BATCH_LINES):
                self._changed.notify()

    def close(self) -> None:
        """Write what waits; of a ledger that is out of reach, give it up after `TRY_S`."""
        with self._changed:
            self._closing_at = monotonic()
            self._changed.notify()
        self._thread.join()

    def _write_all(self) -> None:
        while batch := self._next_batch():
            by_origin: dict[tuple[int | None, str], list[str]] = {}
            for shard, source, line in batch:
                by_origin.setdefault((shard, source), []).append(line)
            for (shard, source), lines in by_origin.items():
                for chunk in log_chunks(lines):
                    self._write(shard, source, chunk)

    def _next_batch(self) -> list[tuple[int | None, str, str]]:
        with self._changed:
            while self._closing_at is None and len(self._waiting) < BATCH_LINES:
                age_s = monotonic() - self._oldest_at
                if self._waiting and age_s >= BATCH_S:
                    break
                self._changed.wait(BATCH_S - age_s if self._waiting else None)
            # Everything that waits goes out together: behind by ten batches, ten commits would only make it later.
            batch, self._waiting, self._waiting_chars = list(self._waiting), deque(), 0
            return batch

    def _write(self, shard: int | None, source: str, lines: list[str]) -> None:
        if self._is_given_up:
            self.lost += len(lines)
            return
        try:
            self._persist(shard, source, lines)
        except Exception as exc:  # a defect of ours or of a driver too: the thread goes on, and the loss is told
            self.lost += len(lines)
            self.reason = self.reason or in_words(exc)

    def _persist(self, shard: int | None, source: str, lines: list[str]) -> None:
        """Append until the ledger can be reached and the outcome is known; the event's id makes a second call safe."""
        event_id = new_event_ids(1)[0]
        began_at = monotonic()
        while True:
            try:
                self._log.append_log(self._run_id, lines, source=source, shard=shard, event_id=event_id)
                return
            except (StoreUnavailable, OutcomeUnknown):
                if monotonic() - self._since(began_at) >= TRY_S:
                    self._is_given_up = self._closing_at is not None
                    raise
            with self._changed:
                self._changed.wait(RETRY_S)

    def _since(self, began_at: float) -> float:
        """Since when the ledger is waited for: at the end once for all that is left, not for each append anew."""
        return began_at if self._closing_at is None else min(began_at, self._closing_at)
