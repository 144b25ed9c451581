"""Signals to a whole process group: a command and what it started, unless that left the group on purpose."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_PROCESSES: Final = Path("/proc")


def signal_group(group: int, number: signal.Signals) -> None:
    """Send a signal to every process of a group; a group that is gone is fine.

    A stopped process takes a SIGTERM only when it goes on, so it is told to.
    """
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        if number is signal.SIGTERM:
            os.killpg(group, signal.SIGCONT)


def is_gone(group: int) -> bool:
    """Tell whether no process of a group lives any more.

    Its number is not given to a new process while the group exists, so a group whose first process was reaped can
    still be asked for. In containers the first process often reaps orphans late or never: what is dead and waits for
    that counts as gone, where the system lets us see it. A process that is born during the look can be missed, so who
    acts on the answer kills the group once more.
    """
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return (_PROCESSES / "self" / "stat").exists() and group not in set(_living_groups())


def _living_groups() -> Iterator[int]:
    """Give the group of every process that lives; Linux only (proc(5): state, parent, group after the name)."""
    for process in os.scandir(_PROCESSES):
        if not process.name.isdigit():
            continue
        try:
            state, _, group = (_PROCESSES / process.name / "stat").read_bytes().rpartition(b")")[2].split()[:3]
        except (OSError, ValueError):
            continue  # it ended meanwhile
        if state not in (b"Z", b"X"):
            yield int(group)
