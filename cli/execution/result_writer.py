"""Appends one shard's results in the background, batched by time, count and size.

Results are numbered within the shard's attempt, so a batch that is sent again counts once. Only one writer a shard can
number: the fold takes what is below the highest number it saw for a repetition. Whoever holds the shard's
`SequenceClaim` numbers; a second writer at the same time (two pytests side by side in one shard) appends without
numbers, and its retries are told apart by the event's id alone.
"""

import fcntl
import os
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from cli.settling import in_words
from ledger.api import Ledger
from ledger.clock import monotonic
from ledger.errors import InvalidInput, LedgerError, OutcomeUnknown, StoreUnavailable
from ledger.ids import new_event_ids
from ledger.run.values import JsonObject, clean

BATCH_S: Final = 0.2
BATCH_RESULTS: Final = 100
BATCH_CHARS: Final = 128 * 1024
"""Of text; a character takes up to six bytes in JSON, and an event at most `limits.PAYLOAD_BYTES_MAX`."""
WAITING_RESULTS_MAX: Final = 100_000
"""Results that wait for a ledger that is slow or out of reach."""
RETRY_S: Final = 0.5
TRY_S: Final = 120.0
"""How long one batch is tried while the ledger is out of reach; then it is given up, and counted."""
CLOSE_S: Final = 40.0
"""How long closing goes on trying: a little more than a writer waits for a locked SQLite file."""

_T = TypeVar("_T")


@dataclass(slots=True)
class Recording:
    """What became of the results that were put.

    Attributes:
        recorded: How many are in the log.
        lost: How many are not.
        reason: Why the first of those is not.
    """

    recorded: int = 0
    lost: int = 0
    reason: str | None = None

    def lose(self, count: int, reason: str) -> None:
        """Count results that will not be recorded."""
        self.lost += count
        self.reason = self.reason or reason


class SequenceClaim:
    """The right to number the results of one shard's attempt, for the processes of this machine.

    A lock on a file, which the system takes back when its holder dies. Not held: somebody else has it.
    """

    def __init__(self, run_id: str, shard: int | None, shard_attempt: int) -> None:
        self.path = Path(tempfile.gettempdir(), f"runfold-{run_id}-{shard}-{shard_attempt}.lock")
        self._file: int | None = None
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before may have removed the file between our two calls: then another could lock a new one.
            self.is_held = os.fstat(self._file).st_nlink > 0
        except OSError:
            self.is_held = False

    def release(self) -> None:
        """Give it back, and leave no file behind."""
        if self.is_held:
            self.path.unlink(missing_ok=True)
        if self._file is not None:
            os.close(self._file)
        self._file, self.is_held = None, False


class ResultWriter:
    """A background writer of one shard's results. `put` never raises.

    Args:
        log: The ledger; used from the writer's thread.
        run_id: The run.
        shard: Which shard; None for results of no shard.
        shard_attempt: Which attempt of it.
        waits: Whether `put` waits when `WAITING_RESULTS_MAX` wait already, as a reader of files can. Otherwise it
            gives the result up, and counts it: tests shall not stand still because a ledger does.
    """

    def __init__(
        self, log: Ledger, run_id: str, *, shard: int | None, shard_attempt: int = 1, waits: bool = False
    ) -> None:
        self._log = log
        self._waits = waits
        self._run_id = run_id
        self._shard = shard
        self._shard_attempt = shard_attempt
        self._recording = Recording()
        self._waiting: deque[JsonObject] = deque()
        self._oldest_at = 0.0
        self._changed = threading.Condition()
        self._closing_at: float | None = None
        self._is_refused = False
        self._sequence: int | None = None
        self._thread = threading.Thread(target=self._write_all, name="runfold results", daemon=True)
        self._thread.start()

    def put(self, result: JsonObject) -> None:
        """Hand over one result: a flat object with a `status`."""
        with self._changed:
            while self._waits and len(self._waiting) >= WAITING_RESULTS_MAX:
                self._changed.wait(RETRY_S)
            if len(self._waiting) >= WAITING_RESULTS_MAX:
                self._recording.lose(1, f"{WAITING_RESULTS_MAX:,} results wait for the ledger already")
                return
            if not self._waiting:
                self._oldest_at = monotonic()
            self._waiting.append({key: clean(value) if type(value) is str else value for key, value in result.items()})
            if len(self._waiting) in (1, BATCH_RESULTS):
                self._changed.notify_all()

    def close(self) -> Recording:
        """Write what waits, give up what cannot be written within `CLOSE_S`, and say what became of all."""
        with self._changed:
            self._closing_at = monotonic()
            self._changed.notify_all()
        self._thread.join()
        return self._recording

    def _write_all(self) -> None:
        claim = SequenceClaim(self._run_id, self._shard, self._shard_attempt)
        try:
            if claim.is_held:
                self._number()
            while batch := self._next_batch():
                self._write(batch)
        finally:
            claim.release()

    def _number(self) -> None:
        try:
            self._sequence = self._persist(self._next_sequence)
        except LedgerError:
            self._sequence = None  # the appends will meet the same error, and count what it costs

    def _next_sequence(self) -> int:
        """Go on where the writer before us ended: a shard may run one test command after the other."""
        state = self._log.state(self._run_id)
        if self._shard is None:
            return state.unsharded.next_sequence
        shard = state.shards.get(self._shard)
        return shard.results.next_sequence if shard is not None and shard.attempt == self._shard_attempt else 0

    def _next_batch(self) -> list[JsonObject]:
        """Wait for a full batch, or for the oldest result to have waited long enough; empty at the end."""
        with self._changed:
            while self._closing_at is None and len(self._waiting) < BATCH_RESULTS:
                age_s = monotonic() - self._oldest_at
                if self._waiting and age_s >= BATCH_S:
                    break
                self._changed.wait(BATCH_S - age_s if self._waiting else None)
            batch: list[JsonObject] = []
            room = BATCH_CHARS
            while self._waiting and len(batch) < BATCH_RESULTS:
                room -= sum(len(value) for value in self._waiting[0].values() if type(value) is str)
                if batch and room < 0:
                    break
                batch.append(self._waiting.popleft())
            if self._waiting:
                self._oldest_at = monotonic()
            self._changed.notify_all()  # there is room again
            return batch

    def _write(self, batch: list[JsonObject]) -> None:
        if self._is_refused:
            self._recording.lose(len(batch), "the run is closed")
            return
        try:
            self._append(batch)
        except InvalidInput as exc:
            if len(batch) == 1:
                self._recording.lose(1, str(exc))
            else:
                for result in batch:
                    self._write([result])
        except LedgerError as exc:
            self._recording.lose(len(batch), in_words(exc))
        except Exception as exc:  # a defect of ours or of a driver: say so, and let the test run be
            self._recording.lose(len(batch), f"{type(exc).__name__}: {exc}")

    def _append(self, batch: list[JsonObject]) -> None:
        event_id = new_event_ids(1)[0]

        def append() -> int:
            return self._log.append_results(
                self._run_id,
                batch,
                shard=self._shard,
                shard_attempt=self._shard_attempt,
                first_sequence=self._sequence,
                event_id=event_id,
            )

        appended = self._persist(append)
        if not appended:
            self._is_refused = True
            self._recording.lose(len(batch), "the run is closed, or the shard was handed on")
            return
        self._recording.recorded += appended
        if self._sequence is not None:
            self._sequence += appended

    def _persist(self, call: Callable[[], _T]) -> _T:
        """Call until the ledger can be reached and the outcome is known; a repeated append counts once."""
        began_at = monotonic()
        while True:
            try:
                return call()
            except (StoreUnavailable, OutcomeUnknown):
                now = monotonic()
                is_closed_long = self._closing_at is not None and now - self._closing_at > CLOSE_S
                if is_closed_long or now - began_at > TRY_S:
                    raise
            with self._changed:
                self._changed.wait(RETRY_S)
