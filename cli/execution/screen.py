"""What the user sees of an execution: the commands' output with its shard in front, notes, and a line of progress.

The output goes to where the command sent it, stdout or stderr; notes and progress go to stderr, so that stdout holds
what the commands said and nothing else. The line of progress is drawn on a terminal only.
"""

import os
import shutil
import threading
from typing import Final, TextIO

from ledger.clock import monotonic
from ledger.run.state import Run, RunState
from ledger.run.values import PASSED_RESULTS, SKIPPED_RESULTS

REDRAW_S: Final = 0.2
_ERASE: Final = "\r\x1b[2K"


class Screen:
    """Writes to the terminal, or to whatever stands in its place.

    Args:
        stdout: For the commands' stdout.
        stderr: For the commands' stderr, notes and progress.
        shard_count: Lines carry their shard's number when there are several.
        shows_output: Whether the commands' output is shown.
    """

    def __init__(self, stdout: TextIO, stderr: TextIO, *, shard_count: int, shows_output: bool) -> None:
        self._stdout = stdout
        self._stderr = stderr
        self._shard_count = shard_count
        self._shows_output = shows_output
        self._is_live = stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._started_at = monotonic()
        self._drawn_at = 0.0
        self._has_progress = False
        self._lock = threading.Lock()  # what reads result files complains from threads of its own

    def line(self, shard: int, source: str, text: str) -> None:
        """Show one line of a command's output."""
        if not self._shows_output:
            return
        prefix = f"[{shard}] " if self._shard_count > 1 else ""
        with self._lock:
            self._erase()
            self._write(self._stdout if source == "stdout" else self._stderr, f"{prefix}{text}\n")

    def note(self, text: str) -> None:
        """Say something in Runfold's own name."""
        with self._lock:
            self._erase()
            self._write(self._stderr, f"runfold: {text}\n")

    def progress(self, state: RunState) -> None:
        """Draw what is recorded so far, at most every `REDRAW_S`."""
        now = monotonic()
        if not self._is_live or now - self._drawn_at < REDRAW_S:
            return
        width = shutil.get_terminal_size().columns - 1
        text = progress_line(state, elapsed_s=now - self._started_at)
        with self._lock:
            self._drawn_at, self._has_progress = now, True
            self._write(self._stderr, f"{_ERASE}{text[:width]}")

    def close(self) -> None:
        """Leave a clean line behind."""
        with self._lock:
            self._erase()

    def _erase(self) -> None:
        if self._has_progress:
            self._has_progress = False
            self._write(self._stderr, _ERASE)

    def _write(self, stream: TextIO, text: str) -> None:
        try:
            stream.write(text)
            stream.flush()
        except UnicodeEncodeError:
            self._write(stream, text.encode(stream.encoding, errors="backslashreplace").decode(stream.encoding))
        except BrokenPipeError:
            # `runfold exec … | head`: nobody reads any more, and the run goes on. What is written from now on, the
            # interpreter's own flush at the end included, goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def progress_line(state: RunState, *, elapsed_s: float) -> str:
    """Give one line about a run that executes: time, results, and passed and failed of every shard."""
    minutes, seconds = divmod(int(elapsed_s), 60)
    text = f"{minutes}:{seconds:02} {describe_results(state)}"
    if state.shard_count is None:
        return text
    shards = "  ".join(_shard(state, shard) for shard in range(state.shard_count))
    return f"{text} | {state.shards_completed} of {state.shard_count} shards done | {shards}"


def describe_results(run: Run) -> str:
    """Give the counts of a run's results in the words of the results, the failed ones first."""
    if not run.statuses:
        return "no results"
    counts = sorted(run.statuses.items(), key=lambda item: (_rank(item[0]), item[0]))
    return ", ".join(f"{count:,} {word}" for word, count in counts)


def _shard(state: RunState, shard: int) -> str:
    known = state.shards.get(shard)
    statuses = {} if known is None else known.results.statuses
    passed = sum(count for word, count in statuses.items() if word in PASSED_RESULTS)
    failed = sum(count for word, count in statuses.items() if word not in PASSED_RESULTS | SKIPPED_RESULTS)
    end = "." if known is not None and known.is_completed else ""
    return f"[{shard}] {passed} passed {failed} failed{end}"


def _rank(word: str) -> int:
    return 1 if word in PASSED_RESULTS else 2 if word in SKIPPED_RESULTS else 0
