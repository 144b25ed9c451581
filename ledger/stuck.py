"""What waits for whom: why a task that is not done makes no progress.

It looks at tasks as they are and judges by their age. What it finds is a reason to look, no verdict: a worker that
beats its lease is not among it, however long its work takes, unless it was asked to stop. One that goes on past
the abort's deadline, or for long where it has none, is: the next sweep ends the first, somebody has to abort the other.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import groupby

import msgspec

from ledger.events import RunId
from ledger.run.leases import Purpose
from ledger.tasks import Task


class Why(StrEnum):
    """Why a task makes no progress, and by that what it waits for."""

    LEASE_OVER = "lease_over"
    """Its worker's lease is over: a sweep, by any worker or by hand, settles it."""
    INTERRUPTED = "interrupted"
    """Nobody works on it: somebody has to resume, fail or abort it."""
    SILENT = "silent"
    """Whoever started it has no lease to lose, and wrote nothing for long."""
    ABORT_REQUESTED = "abort_requested"
    """Its workers were asked to stop, and did not by the abort's deadline, or for long where it has none."""
    NOT_FINALIZED = "not_finalized"
    """Its shards are done: a worker of its kind has to finalize it."""
    UNCLAIMED = "unclaimed"
    """It could have been claimed for long: a worker of its kind is missing, or they are all busy."""
    FAR_AHEAD = "far_ahead"
    """It is scheduled for a time that is far away."""


class StuckTask(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks of one run that wait for the same.

    Attributes:
        run_id: The run.
        kind: Of the run.
        project: Of the run.
        why: Why they make no progress.
        shards: Which shards; empty when it is the run itself.
        worker: Who holds them, or is to finish them; None when nobody does.
        since: Since when they wait.
        until: When they come due, if they are scheduled.
    """

    run_id: RunId
    kind: str
    project: str | None
    why: Why
    shards: tuple[int, ...] = ()
    worker: str | None = None
    since: datetime
    until: datetime | None = None


def why_waiting(task: Task, *, now: datetime, older_than: timedelta, ahead: timedelta) -> Why | None:
    """Tell why a task makes no progress, as far as it can be seen from the task.

    Args:
        task: A task.
        now: The present moment.
        older_than: What has been so for less than this is no reason.
        ahead: What is scheduled for less than this from now is not far.

    Returns:
        None when it is as it should be. `SILENT` means that the run's last event is still to be looked at: it may have
        been interrupted, or be well.
    """
    if task.is_overdue:
        return Why.LEASE_OVER
    if task.state == "scheduled" and task.available_at is not None and task.available_at > now:
        return Why.FAR_AHEAD if task.available_at - now > ahead else None
    if now - waiting_since(task) < older_than:
        return None
    if task.state in ("waiting", "scheduled"):
        return Why.NOT_FINALIZED if task.purpose is Purpose.FINALIZE else Why.UNCLAIMED
    is_held_without_lease = task.state == "held" and task.deadline is None and task.shard is None
    return Why.SILENT if is_held_without_lease else None


def waiting_since(task: Task) -> datetime:
    """Give since when a task is as it is; since its deadline, when that has passed."""
    if task.is_overdue and task.deadline is not None:
        return task.deadline
    return task.since if task.available_at is None else max(task.since, task.available_at)


def gathered(found: Iterable[tuple[Task, Why, datetime]]) -> Iterator[StuckTask]:
    """Put together what tasks of one run say alike.

    Args:
        found: Tasks in the order of their runs, why they wait, and since when.
    """
    for _, of_run in groupby(found, key=lambda one: one[0].run_id):
        alike: dict[tuple[Why, str | None], list[tuple[Task, datetime]]] = {}
        for task, why, since in of_run:
            alike.setdefault((why, task.worker), []).append((task, since))
        for (why, worker), tasks in alike.items():
            first = tasks[0][0]
            yield StuckTask(
                run_id=first.run_id,
                kind=first.kind,
                project=first.project,
                why=why,
                shards=tuple(task.shard for task, _ in tasks if task.shard is not None),
                worker=worker,
                since=min(since for _, since in tasks),
                until=first.available_at if why is Why.FAR_AHEAD else None,
            )
