"""How a run is named on the command line: its id, the beginning of one, `@last`, `@last-failed`, or `-` for stdin."""

import re
import sys
from collections.abc import Iterable
from typing import Final

import click

from cli.errors import AmbiguousRun, NoSuchRun
from ledger.events import RunId
from ledger.run.state import Run
from projections.reader import Runs

LAST: Final = "@last"
LAST_FAILED: Final = "@last-failed"

IDS_MAX: Final = 10_000
"""Runs that one command takes, from arguments and stdin together."""

_FULL: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PREFIX: Final = re.compile(r"[0-9a-f][0-9a-f-]{0,35}")


def resolve(runs: Runs, given: str) -> RunId:
    """Find the one run that is meant. A full id is taken as it is: whoever reads the run finds out.

    Args:
        runs: The runs of the ledger.
        given: What the user wrote.

    Raises:
        NoSuchRun: when no run is meant by it.
        AmbiguousRun: when several run ids begin with it.
        click.UsageError: when it cannot name a run.
    """
    if given in (LAST, LAST_FAILED):
        return _latest(runs, given)
    wanted = given.lower()
    if _FULL.fullmatch(wanted):
        return RunId(wanted)
    if _PREFIX.fullmatch(wanted) is None:
        raise click.UsageError(
            f"{given!r} names no run: an id, its first characters, {LAST} or {LAST_FAILED} does. See `runfold list`."
        )
    found = list(runs.find(wanted))
    if not found:
        raise NoSuchRun(f"no run id begins with {given}. See `runfold list` for those of this ledger.")
    if len(found) > 1:
        raise AmbiguousRun(given, found)
    return RunId(found[0])


def _latest(runs: Runs, given: str) -> RunId:
    """Give the newest run; of `@last-failed`, the newest that failed or whose verdict is failed."""
    if given == LAST:
        found: list[Run | None] = [runs.latest()]
    else:
        found = [runs.latest(status="failed"), runs.latest(verdict="failed")]
    known = [run for run in found if run is not None]
    if not known:
        what = "no run" if given == LAST else "no run that failed"
        raise NoSuchRun(f"{given}: the ledger has {what}. See `runfold list`.")
    return RunId(max(known, key=_age).run_id)


def _age(run: Run) -> tuple[str, str]:
    return ("" if run.created_at is None else run.created_at.isoformat(), run.run_id)


def read_ids(given: Iterable[str]) -> list[str]:
    """Give the runs that arguments name, `-` standing for those on stdin, each once, in their order.

    Raises:
        click.UsageError: when there are too many.
    """
    named: dict[str, None] = {}
    for word in given:
        if word != "-":
            named[word] = None
            continue
        for line in sys.stdin:
            named.update(dict.fromkeys(line.split()[:1]))  # the first column, so that a list can be piped as it is
            if len(named) > IDS_MAX:
                break
    if len(named) > IDS_MAX:
        raise click.UsageError(f"more than {IDS_MAX:,} runs are named. Take fewer at a time.")
    return list(named)
