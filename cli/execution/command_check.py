"""Looks whether there is a command before work is taken for it."""

import os
import shutil
from collections.abc import Mapping
from typing import NamedTuple

from cli.errors import CommandNotExecutable, CommandNotFound


class Trouble(NamedTuple):
    """Why a command cannot be executed.

    Attributes:
        error: In words.
        is_there: Whether there is such a file, only none that may be executed.
    """

    error: str
    is_there: bool


def trouble_with(name: str, environ: Mapping[str, str]) -> Trouble | None:
    """Tell why there is no such command; None when there is."""
    path = environ.get("PATH", os.defpath)
    if shutil.which(name, path=path) is not None:
        return None
    is_there = shutil.which(name, mode=os.F_OK, path=path) is not None
    return Trouble(f"the command {name!r} {'cannot be executed' if is_there else 'was not found'}", is_there)


def require_command(name: str, environ: Mapping[str, str]) -> None:
    """Check that there is a command, where every piece of work would fail without it.

    Raises:
        CommandNotFound, CommandNotExecutable: when there is none. One with a placeholder is not known yet.
    """
    trouble = None if "{shard" in name else trouble_with(name, environ)
    if trouble is not None:
        kind = CommandNotExecutable if trouble.is_there else CommandNotFound
        raise kind(f"{trouble.error}. Check its name, its permissions and PATH; nothing was started.")
