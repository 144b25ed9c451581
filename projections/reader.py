"""`Runs`: reads about many runs, each as fresh as the log.

A list, count or search first catches up, so it reflects every append that was committed before it began. When nothing
is new, that is one look at the checkpoint and one at the log, without a lock or a write. A connection that may not
write folds what is new in memory: `projections.unwritten`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import islice
from time import monotonic
from typing import Final, TypeVar, Unpack

from ledger.api import Ledger
from ledger.errors import NotPermitted, RunNotFound, StoreReadOnly
from ledger.events import RunId
from ledger.run.state import Run, RunState, apply_all, as_run, initial
from ledger.run.values import Status, check_uuid
from projections.decoding import as_recorded, read_events
from projections.projector import PAGE_EVENTS, fold_aside, fresh
from projections.queries import (
    FOUND_MAX,
    CountedBy,
    ListedRun,
    PageKey,
    RunFilter,
    RunFilters,
    RunPage,
    check_find,
    check_limit,
    check_projects,
    lasting,
    matches,
    page_key,
    run_filter,
)
from projections.queries import page_token as make_page_token
from projections.runs import RUNS, decode_run, decode_state
from projections.stores import open_run_tables
from projections.tables import RunQuestions
from projections.unwritten import UnwrittenRuns

_T = TypeVar("_T")
_Text = TypeVar("_Text", bound=str)

_REFUSED_S: Final = 5.0
"""How long a connection that was refused a write does not try one again."""
_AS_OF_ROWS: Final = 200
"""Rows looked at in one step of a list as of a moment."""


class Runs:
    """The runs of a ledger, for reading. Safe to use from any thread.

    Args:
        log: The ledger.
    """

    def __new__(cls, log: Ledger) -> "Runs":
        """Give the runs of a ledger; one behind a server answers the same questions there."""
        if hasattr(log, "ask"):
            from projections.remote_runs import RemoteRuns

            return RemoteRuns(log)  # type: ignore[return-value, arg-type]
        return super().__new__(cls)

    def __init__(self, log: Ledger) -> None:
        self._log = log
        self._tables = open_run_tables(log.store)
        self._may_write_at = 0.0  # until the database says otherwise

    def get(self, run_id: str, *, at: int | datetime | None = None) -> RunState:
        """Give one run: its stored row, and the events since then folded onto it. Nothing is written.

        Args:
            run_id: The run.
            at: As of this version or moment; None is now.

        Raises:
            InvalidInput: when the id is no UUID, or the moment has no time zone.
            RunNotFound: when the run has no event up to there.
        """
        if at is not None:
            return self._log.state(run_id, at=at)
        run = RunId(check_uuid(run_id, field="run_id"))
        stored = self._tables.state(run, version=RUNS.version)
        state = self._fold_on(run, initial(run) if stored is None else decode_state(stored))
        if state.version == 0:
            raise RunNotFound(run)
        return state

    def list(self, *, limit: int = 50, page_token: str | None = None, **filters: Unpack[RunFilters]) -> RunPage:
        """List runs, newest first.

        Args:
            limit: Rows of a page, 1 to `limits.LIST_ROWS_MAX`.
            page_token: `next_page_token` of the page before, asked with the same filters; None is the first page.
            **filters: Which runs; see `projections.queries.run_filter`.

        Raises:
            InvalidInput: when a filter, the limit or the token is none that can be asked.
            SchemaMismatch: when the rows were folded by another release.
        """
        wanted = run_filter(**filters)
        found = self._select(wanted, page_key(wanted, page_token), check_limit(limit) + 1)
        runs = [run for _, run in found[:limit]]
        return RunPage(runs, make_page_token(wanted, found[limit - 1][0]) if len(found) > limit else None)

    def count(self, **filters: Unpack[RunFilters]) -> int:
        """Count runs; see `list` for filters and errors."""
        wanted = run_filter(**filters)
        if wanted.at is not None:
            return sum(1 for _ in self._as_of(wanted, None))
        return self._fresh(lambda tables, generation: tables.count(generation, wanted))

    def count_by_project(self, project_ids: Sequence[str], **filters: Unpack[RunFilters]) -> dict[str, int]:
        """Count the runs of several projects at once.

        Args:
            project_ids: Which, up to `limits.LIST_ROWS_MAX`.
            **filters: Which runs; see `list`.

        Returns:
            How many each has, 0 included.
        """
        wanted, names = run_filter(**filters), check_projects(project_ids)
        return self._count_by("project", names, wanted)

    def count_by_status(self, **filters: Unpack[RunFilters]) -> dict[Status, int]:
        """Count runs by their status; see `list` for filters and errors.

        Returns:
            How many runs are in each of the statuses asked for, or in every one, 0 included.
        """
        wanted = run_filter(**filters)
        return self._count_by("status", list(wanted.status or Status), wanted)

    def count_by_kind(self) -> dict[tuple[str, Status], int]:
        """Count all runs that are not in the bin by kind and status; it costs what there are of those, not of runs."""
        counts = self._fresh(lambda tables, generation: tables.count_by_kind(generation, without=()))
        return {(kind, Status(status)): count for (kind, status), count in counts.items()}

    def find(self, prefix: str, *, limit: int = FOUND_MAX, project: str | None = None) -> Sequence[str]:
        """Find run ids by how they begin; deleted runs are found as well.

        Args:
            prefix: The first characters, 1 to 36.
            limit: How many to give at most; 2 tell whether a prefix is unique.
            project: Only runs of this project; None is any run.

        Returns:
            The first ids in their order.

        Raises:
            InvalidInput: when no run id can begin like that.
        """
        check_find(prefix, limit=limit, project=project)
        return self._fresh(lambda tables, generation: tables.find(generation, prefix, project=project, limit=limit))

    def latest(self, **filters: Unpack[RunFilters]) -> Run | None:
        """Give the newest run, or None when there is none; see `list` for filters and errors."""
        found = self.list(limit=1, **filters).runs
        return found[0] if found else None

    def _fresh(self, read: Callable[[RunQuestions, int], _T | None]) -> _T:
        if monotonic() >= self._may_write_at:
            try:
                return fresh(self._log, RUNS.name, partial(read, self._tables), follow=False)
            except (NotPermitted, StoreReadOnly):
                self._may_write_at = monotonic() + _REFUSED_S
        while True:
            generation, rows = fold_aside(self._log, RUNS.name)
            found = read(UnwrittenRuns(self._tables, rows) if rows else self._tables, generation)
            if found is not None:
                return found

    def _count_by(self, column: CountedBy, values: Sequence[_Text], wanted: RunFilter) -> dict[_Text, int]:
        if wanted.at is not None:
            found: Mapping[str, int] = Counter(getattr(run, column) for _, run in self._as_of(wanted, None))
        else:
            found = self._fresh(lambda tables, generation: tables.count_by(generation, wanted, column, values))
        return {value: found.get(value, 0) for value in values}

    def _select(self, wanted: RunFilter, after: PageKey | None, limit: int) -> Sequence[tuple[PageKey, Run]]:
        if wanted.at is not None:
            return tuple(islice(self._as_of(wanted, after), limit))
        rows = self._fresh(lambda tables, generation: tables.list(generation, wanted, after=after, limit=limit))
        return [(row.key, decode_run(row.run)) for row in rows]

    def _as_of(self, wanted: RunFilter, after: PageKey | None) -> Iterator[tuple[PageKey, Run]]:
        """Give the runs as they were at a moment, one after the other.

        What a run's later events cannot change narrows the rows down; a row that nothing has touched since is as it
        was; only the others are folded from their events, so memory stays that of one run.
        """
        candidates = lasting(wanted)
        more = True
        while more:
            rows = self._chunk(candidates, after)
            for row in rows:
                run = self._run_as_of(row, wanted)
                if matches(wanted, run):
                    yield row.key, run
            more = len(rows) == _AS_OF_ROWS
            after = rows[-1].key if rows else after

    def _chunk(self, wanted: RunFilter, after: PageKey | None) -> Sequence[ListedRun]:
        return self._fresh(lambda tables, generation: tables.list(generation, wanted, after=after, limit=_AS_OF_ROWS))

    def _run_as_of(self, row: ListedRun, wanted: RunFilter) -> Run:
        if wanted.at is None or row.last_recorded_at <= wanted.at:
            return decode_run(row.run)
        return as_run(self._log.state(row.run_id, at=datetime.fromisoformat(wanted.at)))

    def _fold_on(self, run: RunId, state: RunState) -> RunState:
        more = True
        while more:
            page = self._log.store.read_run(run, after_version=state.version, limit=PAGE_EVENTS)
            apply_all(state, as_recorded(read_events(page.events)))
            more = page.more
        return state
