"""The recycle bin of a project: runs that were deleted, until they are restored or purged.

A single run goes in and out with `Ledger.delete`, `restore` and `purge`; lists show the bin with `deleted="only"`. What
is here does the same to all runs of a project, run by run: when it breaks off, what was done stays done, and calling
it again goes on.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final, Unpack

from ledger import limits
from ledger.api import Ledger, Outcome
from ledger.errors import IllegalTransition, RunPurged
from ledger.run.codec import RecordedRunEvent
from ledger.run.state import Run
from ledger.run.values import Status, check_time
from projections.queries import RunFilters
from projections.reader import Runs

ACTIVE: Final = tuple(status for status in Status if not status.is_terminal)


class RecycleBin:
    """The runs of projects, put into the bin and taken out of it together.

    Args:
        log: The ledger.
    """

    def __init__(self, log: Ledger) -> None:
        self._log = log
        self._runs = Runs(log)

    def delete_project(self, project: str, *, reason: str | None = None) -> list[RecordedRunEvent]:
        """Put all runs of a project into the bin.

        Args:
            project: Whose runs.
            reason: Why, for people.

        Returns:
            The `deleted` events of those that were not there before.

        Raises:
            IllegalTransition: when one of them is active; none was deleted unless it began just now.
        """
        active = self._runs.latest(project=project, status=ACTIVE)
        if active is not None:
            raise IllegalTransition(
                run_id=active.run_id,
                status=active.status,
                command="delete_project",
                why=f"project {project!r} has an active run; abort it",
            )
        outcomes = [self._log.delete(run.run_id, reason=reason) for run in all_runs(self._runs, project=project)]
        return _written(outcomes)

    def restore_project(self, project: str, *, deleted_since: datetime) -> list[RecordedRunEvent]:
        """Take those runs of a project out of the bin that went there with it.

        Args:
            project: Whose runs.
            deleted_since: Runs deleted at this moment or later; what was deleted before by itself stays in the bin.

        Returns:
            The `restored` events of those that came back. A run that is being purged does not.
        """
        check_time(deleted_since, field="deleted_since")
        outcomes = []
        for run in all_runs(self._runs, project=project, deleted="only"):
            if run.deleted_at is not None and run.deleted_at >= deleted_since:
                with suppress(RunPurged):
                    outcomes.append(self._log.restore(run.run_id))
        return _written(outcomes)

    def purge_project(self, project: str, *, reason: str | None = None) -> list[RecordedRunEvent]:
        """Erase the data of those runs of a project that are in the bin; see `Ledger.purge`.

        Returns:
            Their `purged` events.
        """
        runs = all_runs(self._runs, project=project, deleted="only")
        return _written([self._log.purge(run.run_id, reason=reason) for run in runs])


def _written(outcomes: Sequence[Outcome]) -> list[RecordedRunEvent]:
    return [outcome.winner for outcome in outcomes if outcome.winner is not None]


def all_runs(runs: Runs, *, rows: int | None = None, **filters: Unpack[RunFilters]) -> Iterator[Run]:
    """Give the runs of a list one by one, page by page; whoever changes them meanwhile shifts nothing.

    Args:
        runs: Where they are listed.
        rows: How many are read at once: fewer for whoever wants only the newest; None is `limits.LIST_ROWS_MAX`.
        **filters: Which runs; see `projections.queries.run_filter`.
    """
    token: str | None = None
    while True:
        page = runs.list(limit=rows or limits.LIST_ROWS_MAX, page_token=token, **filters)
        yield from page.runs
        token = page.next_page_token
        if token is None:
            return
