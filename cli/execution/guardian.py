"""Ends a run's processes when its executor cannot: `kill -9`, a crash, out of memory.

The guardian is a small process in a session of its own. It reads from a pipe which process groups run (`+pid`), which
are gone (`-pid`) and that the run was finished (`done`). When the pipe ends without that last word, its executor is
dead: the guardian ends the groups that are left, and notes in the ledger that nobody works on the run any more.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import BinaryIO, Final

from cli.execution.process_group import is_gone, signal_group

GRACE_S: Final = 2.0
"""Between asking an orphaned group to end and killing it."""


class Guardian:
    """The executor's end: starts the guardian, and tells it what is gone.

    Args:
        run_id: The run that is interrupted when its executor dies; None when leases tell, as a worker's do.
        url: The ledger, absolute.
    """

    def __init__(self, run_id: str | None, url: str) -> None:
        reading, self.pipe = os.pipe()
        with open(reading, "rb") as end:
            # The URL may hold a password: it goes through the environment, which others cannot list.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "runfold.start", "cli.execution.guardian", run_id or ""],
                stdin=end,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "RUNFOLD_URL": url},
            )

    def forget(self, process_id: int) -> None:
        """Say that a group is gone, so that another one with its number later is left alone."""
        self._tell(b"-%d\n" % process_id)

    def dismiss(self) -> None:
        """Say that the run is finished."""
        self._tell(b"done\n")

    def close(self) -> None:
        """End the pipe, and with it the guardian."""
        os.close(self.pipe)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=2 * GRACE_S)

    def _tell(self, line: bytes) -> None:
        with suppress(BrokenPipeError):  # somebody killed the guardian; the run goes on without one
            os.write(self.pipe, line)


def watch(pipe: BinaryIO) -> set[int] | None:
    """Follow what is said until the pipe ends.

    Returns:
        The groups that are left without an executor; None when it finished its run.
    """
    groups: set[int] = set()
    for line in pipe:
        word = line.strip()
        if word == b"done":
            return None
        if word.startswith(b"+"):
            groups.add(int(word[1:]))
        elif word.startswith(b"-"):
            groups.discard(int(word[1:]))
    return groups


def end_groups(groups: set[int]) -> None:
    """Ask every group to end, and kill what is left after the grace."""
    for group in groups:
        signal_group(group, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and not all(map(is_gone, groups)):
        time.sleep(0.05)
    for group in groups:
        signal_group(group, signal.SIGKILL)


def note_interruption(run_id: str, url: str) -> None:
    """Note that nobody works on the run any more; a run that was finished stays as it is."""
    from cli.worker_logs import quiet_drivers
    from ledger.errors import LedgerError
    from ledger.opening import open as open_ledger

    quiet_drivers()
    with suppress(LedgerError), open_ledger(url, actor="runfold guardian", migrate=False) as log:
        log.interrupt(run_id, reason="the process that executed the run is gone; its commands were ended")


def main() -> None:
    """Guard one run."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups = watch(sys.stdin.buffer)
    if groups is not None:
        end_groups(groups)
        if sys.argv[1]:
            note_interruption(sys.argv[1], os.environ["RUNFOLD_URL"])


if __name__ == "__main__":
    main()
