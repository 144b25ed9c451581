"""Tells whether a pytest that was to report did. Without Runfold's plugin it runs unseen, and runs every test. No I/O.

The plugin makes the file that `LOADED` names. On another machine or in a container it cannot: results
that it recorded say so as well.
"""

from collections.abc import Sequence
from itertools import pairwise
from os.path import basename
from typing import Final

LOADED: Final = "RUNFOLD_PYTEST_LOADED"
"""The variable that names the file. It is the executor's affair, and no part of a shard's place."""
PLUGIN_MISSING: Final = "plugin_missing"
"""The category of such a failure."""
_ASKS: Final = frozenset({"-h", "--help", "-V", "--version"})


def needs_plugin(command: Sequence[str], *, splits_pytest: bool, reads_files: bool) -> bool:
    """Tell whether a command is nothing without the plugin: its tests are to be split, or only it could tell results.

    Args:
        command: The command and its arguments.
        splits_pytest: Whether each shard's pytest is to run its share of the tests.
        reads_files: Whether results come from files.
    """
    return splits_pytest or (not reads_files and is_pytest(command))


def is_pytest(command: Sequence[str]) -> bool:
    """Recognize `pytest …` and `python -m pytest …` that run tests."""
    if not _ASKS.isdisjoint(command):
        return False
    program = basename(command[0])
    is_module = program.startswith("python") and ("-m", "pytest") in pairwise(command)
    return program in ("pytest", "py.test") or is_module


def missing_plugin(*, splits_pytest: bool) -> str:
    """Say what is wrong when the plugin never reported."""
    if splits_pytest:
        return (
            "the plugin did not report: the tests were not split, so each shard may have run all of them. Install"
            " runfold in the environment of that pytest; or leave --split-pytest out, and use --reportlog or --junit."
        )
    return (
        "the plugin did not report: pytest ran, and no result is recorded. Install runfold in the environment of that"
        " pytest, or use --reportlog or --junit."
    )
