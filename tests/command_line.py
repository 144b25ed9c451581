"""Runs the installed `runfold` as its users do: piped, on a terminal, or inside a shell."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

RUNFOLD = str(Path(sys.executable).with_name("runfold"))

_OWN = ("RUNFOLD_", "NO_COLOR", "CLICOLOR", "XDG_", "COLUMNS", "TRACEPARENT")


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[list[str]]:
        """The tab-separated rows that it printed."""
        return [line.split("\t") for line in self.out.splitlines()]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Give an environment without settings of the machine the tests run on."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}
    return {**kept, "HOME": str(folder), "LOGNAME": "ada", "TERM": "xterm", **more}


def runfold(*args: str, folder: Path, stdin: str = "", env: Mapping[str, str] | None = None) -> Done:
    """Run the command with its output piped."""
    done = subprocess.run(
        [RUNFOLD, *args],
        cwd=folder,
        env=environment(folder, **(env or {})),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def runfold_on_terminal(
    *args: str, folder: Path, columns: int = 120, keys: str = "", env: Mapping[str, str] | None = None
) -> Done:
    """Run the command on a terminal of its own; what it says on stderr is on that terminal as well."""
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
            os.chdir(folder)
            os.execve(RUNFOLD, [RUNFOLD, *args], environment(folder, **(env or {})))
        finally:
            os._exit(99)
    if keys:
        os.write(terminal, keys.encode())
    shown = b""
    while True:
        try:
            chunk = os.read(terminal, 65_536)
        except OSError:  # Linux says EIO when nobody holds the other end any more
            break
        if not chunk:
            break
        shown += chunk
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    return Done(os.waitstatus_to_exitcode(status), shown.decode().replace("\r\n", "\n"), "")
