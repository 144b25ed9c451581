"""One shard's command: a process in a group of its own, its output cut to lines."""

import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from cli.execution import launcher
from cli.execution.guardian import Guardian
from cli.execution.process_group import is_gone, signal_group
from ledger.limits import LOG_LINE_CHARS_MAX

Source = Literal["stdout", "stderr"]
OnLine = Callable[[int, Source, str], None]

LINE_BYTES_MAX: Final = LOG_LINE_CHARS_MAX
"""A longer line becomes several, so that nothing of it is lost in the log, and none fills the memory."""
_READ_BYTES: Final = 64 * 1024


class LineSplitter:
    """Cuts one stream of bytes to lines of text."""

    def __init__(self) -> None:
        self._partial = b""

    def feed(self, chunk: bytes) -> list[str]:
        """Give the lines that are complete now."""
        *lines, self._partial = (self._partial + chunk).split(b"\n")
        texts = [_text(piece) for line in lines for piece in _pieces(line)]
        *whole, self._partial = _pieces(self._partial)
        return texts + [_text(piece) for piece in whole]

    def finish(self) -> list[str]:
        """Give the last line, when it has no end."""
        last, self._partial = self._partial, b""
        return [_text(last)] if last else []


class ShardProcess:
    """A shard's command while it runs.

    Args:
        command: What to execute, its placeholders already filled in.
        shard: Which shard.
        environ: Its environment.
        guardian: Who ends it when this process cannot.
        selector: Tells when it has said something; `read` is what to do then.
        on_line: Gets every line of output.

    Attributes:
        exit_code: What the command ended with; negative is the number of the signal that ended it. None while it runs.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        shard: int,
        environ: Mapping[str, str],
        guardian: Guardian,
        selector: selectors.BaseSelector,
        on_line: OnLine,
    ) -> None:
        self.shard = shard
        self.exit_code: int | None = None
        self._selector = selector
        self._on_line = on_line
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(launcher.__file__)), *command],
            stdin=guardian.pipe,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environ),
            process_group=0,
        )
        self.process_id = self._process.pid
        self._open: dict[int, tuple[Source, LineSplitter]] = {}
        streams: tuple[tuple[Source, object], ...] = (
            ("stdout", self._process.stdout),
            ("stderr", self._process.stderr),
        )
        for source, pipe in streams:
            descriptor = pipe.fileno()  # type: ignore[attr-defined]
            os.set_blocking(descriptor, False)
            self._open[descriptor] = (source, LineSplitter())
            selector.register(descriptor, selectors.EVENT_READ, self)

    @property
    def is_silent(self) -> bool:
        """Whether nobody can write output any more."""
        return not self._open

    @property
    def is_gone(self) -> bool:
        """Whether the command and everything in its group are gone."""
        return self.exit_code is not None and is_gone(self.process_id)

    def poll(self) -> int | None:
        """Look whether the command has ended."""
        if self.exit_code is None:
            self.exit_code = self._process.poll()
        return self.exit_code

    def terminate(self) -> None:
        """Ask the command, and all it started, to end."""
        signal_group(self.process_id, signal.SIGTERM)

    def kill(self) -> None:
        """End the command, and all it started."""
        signal_group(self.process_id, signal.SIGKILL)

    def read(self, descriptor: int) -> None:
        """Take what it has said on one of its streams."""
        source, splitter = self._open[descriptor]
        try:
            chunk = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        for line in splitter.feed(chunk) if chunk else splitter.finish():
            self._on_line(self.shard, source, line)
        if not chunk:
            self._forget(descriptor)

    def close(self) -> None:
        """Stop listening, also to a process that left the group and still holds the pipes."""
        for descriptor, (source, splitter) in list(self._open.items()):
            for line in splitter.finish():
                self._on_line(self.shard, source, line)
            self._forget(descriptor)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _forget(self, descriptor: int) -> None:
        self._selector.unregister(descriptor)
        del self._open[descriptor]


def _pieces(line: bytes) -> list[bytes]:
    """Cut a line to the size of a line, between two characters of UTF-8; the last piece may be empty."""
    pieces = []
    while len(line) > LINE_BYTES_MAX:
        end = LINE_BYTES_MAX
        while end > LINE_BYTES_MAX - 4 and line[end] & 0xC0 == 0x80:
            end -= 1
        pieces.append(line[:end])
        line = line[end:]
    return [*pieces, line]


def _text(line: bytes) -> str:
    return line.removesuffix(b"\r").decode(errors="replace")
