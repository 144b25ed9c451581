"""Signals to a whole process group: a command and what it started, unless that left the group on purpose."""

import os
import signal
from contextlib import suppress


def signal_group(group: int, number: signal.Signals) -> None:
    """Send a signal to every process of a group; a group that is gone is fine.

    A stopped process takes a SIGTERM only when it goes on, so it is told to.
    """
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        if number is signal.SIGTERM:
            os.killpg(group, signal.SIGCONT)


def is_gone(group: int) -> bool:
    """Tell whether a group has no process left.

    Its number is not given to a new process while the group exists, so a group whose first process was reaped can
    still be asked for.
    """
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
