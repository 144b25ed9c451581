"""Retention: which finished runs are purged, and purging them.

A policy goes by when a run finished, never by when it began: a run that ended today stays, however long it took. A run
that is active is never touched. Whoever sweeps again goes on where a sweep broke off, since what is purged is in no
list any more, and a purge that broke off has left its run in the bin.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final, Literal

import msgspec

from ledger import limits
from ledger.api import Ledger
from ledger.clock import utc_now
from ledger.errors import InvalidInput, SchemaMismatch
from ledger.run.codec import RecordedRunEvent
from ledger.run.state import Run
from ledger.run.values import TERMINAL, Status, check_integer, check_optional_text, check_text, check_time
from projections.projector import PROJECTIONS, catch_up, is_live
from projections.queries import RunFilters
from projections.reader import Runs
from projections.recycle_bin import all_runs

RUNS_AT_ONCE: Final = 100
"""Runs that a sweep purges before it lets others have the database for a while."""
PAUSE_S: Final = 0.1
UNFINISHED: Final = "unfinished"
"""Stands for a policy where a sweep finishes a purge that somebody began."""

InBin = Literal["exclude", "only", "include"]


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Which finished runs are purged; every condition must hold. Make one with `policy`.

    Attributes:
        name: What a sweep calls it.
        older_than: Since a run finished.
        status: Any of these terminal ones; empty is all three.
        keep_newest: Of each project and kind, this many of the runs that the other conditions name are kept, the
            newest of those outside the bin, whatever their age.
        deleted: Whether runs in the recycle bin are left out, the only ones, or among the others.
    """

    name: str
    older_than: timedelta
    kind: str | None = None
    project: str | None = None
    status: tuple[Status, ...] = ()
    keep_newest: int = 0
    deleted: InBin = "include"

    def names(self, run: Run) -> bool:
        """Tell whether a finished run is one of those that this is about, whatever its age."""
        return (
            (self.kind is None or run.kind == self.kind)
            and (self.project is None or run.project == self.project)
            and (not self.status or run.status in self.status)
            and (self.deleted == "include" or (run.deleted_at is not None) == (self.deleted == "only"))
        )


class Swept(msgspec.Struct, frozen=True, kw_only=True):
    """One run that a sweep came to.

    Attributes:
        run: As it was found.
        policy: The name of the first policy that says so, or `unfinished`.
        why: In words.
        event: The `purged` event; None in a dry run, and when somebody else purged the run meanwhile.
    """

    run: Run
    policy: str
    why: str
    event: RecordedRunEvent | None = None


def policy(
    name: str = "policy",
    *,
    older_than: timedelta,
    kind: str | None = None,
    project: str | None = None,
    status: str | Iterable[str] | None = None,
    keep_newest: int = 0,
    deleted: InBin = "include",
) -> Policy:
    """Check what a policy says; see `Policy`.

    Raises:
        InvalidInput: when a value is none that a finished run can have.
    """
    if not isinstance(older_than, timedelta) or older_than < timedelta(0):
        raise InvalidInput("older_than", f"is {older_than!r}; a length of time is needed.")
    if deleted not in ("exclude", "only", "include"):
        raise InvalidInput("deleted", f"is {deleted!r}; exclude, only or include is allowed.")
    return Policy(
        name=check_text(name, field="name", chars_max=limits.NAME_CHARS_MAX),
        older_than=older_than,
        kind=check_optional_text(kind, field="kind", chars_max=limits.NAME_CHARS_MAX),
        project=check_optional_text(project, field="project", chars_max=limits.NAME_CHARS_MAX),
        status=_terminal(status),
        keep_newest=check_integer(keep_newest, field="keep_newest", at_least=0),
        deleted=deleted,
    )


def _terminal(status: str | Iterable[str] | None) -> tuple[Status, ...]:
    if status is not None and not isinstance(status, str | Iterable):
        raise InvalidInput("status", f"is {type(status).__name__}; a status or a list of them is needed.")
    words = () if status is None else (status,) if isinstance(status, str) else tuple(status)
    for word in words:
        if not isinstance(word, str) or word not in TERMINAL:
            raise InvalidInput("status", f"{word!r} is none of: {', '.join(sorted(TERMINAL))}. Active runs are kept.")
    return tuple(sorted({Status(word) for word in words}))


def sweep(
    log: Ledger,
    policies: Sequence[Policy],
    *,
    now: datetime | None = None,
    dry_run: bool = False,
    runs_max: int | None = None,
    reason: str | None = None,
    pause_s: float = PAUSE_S,
) -> Iterator[Swept]:
    """Purge what policies name, and finish the purges that somebody began; one run at a time, as the caller goes on.

    Args:
        log: The ledger.
        policies: The first that names a run counts.
        now: When; None is now.
        dry_run: Only tell what would be purged.
        runs_max: Stop after this many runs; None is no limit.
        reason: Why, for the `purged` events; None takes the policy's name.
        pause_s: How long others have the database for themselves after `RUNS_AT_ONCE` runs.

    Returns:
        An iterator over the runs that are, or would be, purged: those outside the bin first, newest first.

    Raises:
        InvalidInput: when a value is out of range.
        LedgerError: what a purge met; whatever was purged before is purged.
    """
    moment = utc_now() if now is None else check_time(now, field="now")
    if runs_max is not None:
        check_integer(runs_max, field="runs_max", at_least=1)
    for count, (run, name, why) in enumerate(_due(Runs(log), policies, moment), 1):
        if dry_run:
            yield Swept(run=run, policy=name, why=why)
        else:
            if count > 1 and count % RUNS_AT_ONCE == 1:
                time.sleep(pause_s)
            outcome = log.purge(run.run_id, reason=reason or name, from_bin=False)
            yield Swept(run=run, policy=name, why=why, event=outcome.winner)
        if count == runs_max:
            break
    if not dry_run:
        forget(log)


def forget(log: Ledger) -> None:
    """Let every read model forget what was purged: until its next read, its tables have what they had before."""
    if hasattr(log, "ask"):
        return  # the server that purged has let its tables forget
    for name in PROJECTIONS:
        if is_live(log, name):  # what nobody has read yet has nothing to forget
            with suppress(SchemaMismatch):  # a rebuild, which is due, folds nothing that was erased
                catch_up(log, name)


def _due(runs: Runs, policies: Sequence[Policy], now: datetime) -> Iterator[tuple[Run, str, str]]:
    """Give what is to be purged. Runs are read once, whatever the number of policies."""
    kept: Counter[tuple[str, str | None, str]] = Counter()
    if any(policy.deleted != "only" for policy in policies):
        for run in all_runs(runs, **_narrowed(policies, now)):
            policy = _first(policies, run, now, kept)
            if policy is not None:
                yield run, policy.name, _why(policy, run)
    for run in all_runs(runs, deleted="only"):
        if run.purged_version:
            yield run, UNFINISHED, f"its purge was begun at version {run.purged_version:,} and not finished"
        else:
            policy = _first(policies, run, now, kept)
            if policy is not None:
                yield run, policy.name, _why(policy, run)


def _narrowed(policies: Sequence[Policy], now: datetime) -> RunFilters:
    """Give what all policies ask of runs outside the bin, so that lists can leave out the others.

    A run finishes after it was created, so what was created too late has finished too late; those that must be counted
    to keep the newest are read all the same.
    """
    outside = [policy for policy in policies if policy.deleted != "only"]
    kinds, projects = {policy.kind for policy in outside}, {policy.project for policy in outside}
    statuses = {status for policy in outside for status in policy.status or TERMINAL}
    counts = any(policy.keep_newest for policy in outside)
    return {
        "kind": kinds.pop() if len(kinds) == 1 else None,
        "project": projects.pop() if len(projects) == 1 else None,
        "status": sorted(statuses),
        "before": None if counts else now - min(policy.older_than for policy in outside),
    }


def _first(
    policies: Sequence[Policy], run: Run, now: datetime, kept: "Counter[tuple[str, str | None, str]]"
) -> Policy | None:
    """Give the first policy by which a run is purged. Runs come newest first, so those to keep come first."""
    found = None
    for number, policy in enumerate(policies):
        if not policy.names(run):
            continue
        if run.deleted_at is None and policy.keep_newest:
            group = (str(number), run.project, run.kind)
            if kept[group] < policy.keep_newest:
                kept[group] += 1
                continue
        if found is None and run.finished_at is not None and run.finished_at < now - policy.older_than:
            found = policy
    return found


def _why(policy: Policy, run: Run) -> str:
    finished = "" if run.finished_at is None else f"{run.finished_at:%Y-%m-%d %H:%M}Z"
    newest = f", and is not among the newest {policy.keep_newest:,}" if policy.keep_newest else ""
    return f"{run.status} at {finished}, more than {_length(policy.older_than)} ago{newest}"


def _length(length: timedelta) -> str:
    return f"{length.days} days" if length.days and length == timedelta(days=length.days) else str(length)
