"""Why an execution stops before its commands end by themselves, and the signals that make it."""

import signal
from enum import Enum
from types import FrameType, TracebackType
from typing import Final, Self


class Stop(Enum):
    """Why the commands are ended."""

    USER = "user"
    """Somebody pressed Ctrl-C."""
    SHUTDOWN = "shutdown"
    """The system, a supervisor or the terminal's end asked this process to end."""
    TIMEOUT = "timeout"
    CLOSED = "closed"
    """Somebody else ended the run; its terminal event stands."""
    TAKEN = "taken"
    """The run, or a shard of it, is not with this execution any more; what its commands do counts no more."""
    ABORT_REQUESTED = "abort_requested"
    """Somebody asked the workers of the run to stop."""


_MEANING: Final = {signal.SIGINT: Stop.USER, signal.SIGTERM: Stop.SHUTDOWN, signal.SIGHUP: Stop.SHUTDOWN}


class StopSignals:
    """Notes SIGINT, SIGTERM and SIGHUP while it is entered, in place of what they do otherwise.

    Attributes:
        first: What the first of them means; None while none came.
        count: How many came: with the second, the user has waited long enough.
    """

    def __init__(self) -> None:
        self.first: Stop | None = None
        self.count = 0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        for number in _MEANING:
            if signal.getsignal(number) is not signal.SIG_IGN or number is not signal.SIGHUP:  # nohup stays nohup
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.first = self.first or _MEANING[signal.Signals(number)]
        self.count += 1
