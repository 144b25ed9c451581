"""Appends a run's output to its log in the background, batched by time and count."""

import threading
from collections import deque
from typing import Final

from ledger.api import Ledger
from ledger.clock import monotonic

BATCH_S: Final = 0.25
BATCH_LINES: Final = 200
WAITING_LINES_MAX: Final = 50_000
"""With more waiting, the executor reads no further, and the commands wait at their pipes."""


class LogWriter:
    """A background writer of output lines, in the order of each shard's source.

    A batch that cannot be written is lost and counted, never written twice: output is worth less than a wrong order.

    Args:
        log: The ledger; used from the writer's thread.
        run_id: The run.

    Attributes:
        lost: How many lines could not be written.
        reason: Why the first of them could not.
    """

    def __init__(self, log: Ledger, run_id: str) -> None:
        self.lost = 0
        self.reason: str | None = None
        self._log = log
        self._run_id = run_id
        self._waiting: deque[tuple[int | None, str, str]] = deque()
        self._oldest_at = 0.0
        self._is_closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._write_all, name="runfold log", daemon=True)
        self._thread.start()

    @property
    def is_full(self) -> bool:
        """Whether the writer is so far behind that no more should be handed over."""
        return len(self._waiting) >= WAITING_LINES_MAX

    def put(self, shard: int | None, source: str, line: str) -> None:
        """Hand over one line."""
        with self._changed:
            if not self._waiting:
                self._oldest_at = monotonic()
            self._waiting.append((shard, source, line))
            if len(self._waiting) in (1, BATCH_LINES):
                self._changed.notify()

    def close(self) -> None:
        """Write what waits."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    def _write_all(self) -> None:
        while batch := self._next_batch():
            by_origin: dict[tuple[int | None, str], list[str]] = {}
            for shard, source, line in batch:
                by_origin.setdefault((shard, source), []).append(line)
            for (shard, source), lines in by_origin.items():
                self._write(shard, source, lines)

    def _next_batch(self) -> list[tuple[int | None, str, str]]:
        with self._changed:
            while not self._is_closing and len(self._waiting) < BATCH_LINES:
                age_s = monotonic() - self._oldest_at
                if self._waiting and age_s >= BATCH_S:
                    break
                self._changed.wait(BATCH_S - age_s if self._waiting else None)
            # Everything that waits goes out together: behind by ten batches, ten commits would only make it later.
            batch, self._waiting = list(self._waiting), deque()
            return batch

    def _write(self, shard: int | None, source: str, lines: list[str]) -> None:
        try:
            self._log.append_log(self._run_id, lines, source=source, shard=shard)
        except Exception as exc:  # a defect of ours or of a driver too: the thread goes on, and the loss is told
            self.lost += len(lines)
            self.reason = self.reason or str(exc)
