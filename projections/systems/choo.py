"""choo's daemon database: runs of a branch in a repository, their units, and their history.

Differs from choo: only one *active* run may have a branch and repository, so finished runs and their history stay; a
status cannot be written over a finished run; a sequence is the run's version less one (its creation is 0), so that it
grows by one with each event of the run, whoever writes it; reading from a sequence is exclusive everywhere.

Units are runs of their own, with the run as their parent: they start, fail and finish by the same rules.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

from ledger.api import Ledger, Outcome
from ledger.clock import utc_now
from ledger.errors import InvalidInput, LedgerError, RunNotFound
from ledger.run.codec import RecordedRunEvent, timestamp
from ledger.run.events import (
    Aborted,
    Completed,
    DocumentRecorded,
    Failed,
    Interrupted,
    Resumed,
    RunEvent,
    Started,
)
from ledger.run.state import Run
from ledger.run.values import JsonObject, Status, check_integer
from projections.reader import Runs
from projections.vocabularies import CHOO, status_of, statuses_of, view

RUN_KIND: Final = "choo.run"
UNIT_KIND: Final = "choo.unit"
EVENTS_DEFAULT: Final = 100
EVENTS_MAX: Final = 1_000
STALE_S: Final = 60
"""A run whose last event is older has nobody who works on it."""

_NAMES: Final[Mapping[type[RunEvent], str]] = {
    Started: "run.started",
    Interrupted: "run.stopped",
    Resumed: "run.resumed",
    Completed: "run.completed",
    Failed: "run.failed",
    Aborted: "run.cancelled",
}
_PAGE_ROWS: Final = 200


class HistoryEvent(NamedTuple):
    """One event of a run's history.

    Attributes:
        sequence: 1, 2, 3 … in the run.
        type: `run.started`, `task.completed`, …; events that choo has no name for are `run.` and the ledger's.
        unit: Which unit it is about; None for the run.
    """

    sequence: int
    type: str
    unit: str | None
    payload: Any
    created_at: str


class History(NamedTuple):
    """A part of a run's history.

    Attributes:
        total: How many events there are after the sequence, of the types and the unit that were asked for.
        has_more: Whether the limit left some out.
    """

    events: list[HistoryEvent]
    total: int
    has_more: bool


class ResumeReport(NamedTuple):
    """What became of one run when a daemon took up what was left."""

    run_id: str
    is_resumed: bool
    error: str | None = None
    failed_units: tuple[str, ...] = ()


class ChooRuns:
    """Runs of the daemon.

    Args:
        log: The ledger.
        daemon: Who runs them: the worker that the log names.
    """

    def __init__(self, log: Ledger, *, daemon: str = "choo") -> None:
        self._log = log
        self._runs = Runs(log)
        self._daemon = daemon

    # --- runs -----------------------------------------------------------------------------------------------

    def create_run(
        self,
        *,
        feature_branch: str,
        repo_path: str,
        target_branch: str = "main",
        tasks_dir: str = "",
        parallelism: int = 1,
        status: str = "pending",
        daemon_version: str = "",
        config: Mapping[str, Any] | None = None,
    ) -> str:
        """Make a run, pending or running, and give its id.

        Raises:
            ExclusiveKeyTaken: when an active run has this branch and repository; it names that run.
        """
        if status not in ("pending", "running"):
            raise InvalidInput("status", f"is {status!r}; a run begins pending or running.")
        return self._log.enqueue(
            RUN_KIND,
            input={"parallelism": parallelism, "config": dict(config or {})},
            labels={
                "feature_branch": feature_branch,
                "repo_path": repo_path,
                "target_branch": target_branch,
                "tasks_dir": tasks_dir,
                "daemon_version": daemon_version,
            },
            exclusive_key=_key(feature_branch, repo_path),
            worker=self._daemon if status == "running" else None,
        ).id

    def get_run(self, run_id: str) -> JsonObject | None:
        """Give a run; None for an unknown one."""
        try:
            return view(self._runs.get(run_id), CHOO)
        except (RunNotFound, InvalidInput):
            return None

    def get_run_by_branch(self, feature_branch: str, repo_path: str) -> JsonObject | None:
        """Give the newest run of exactly this branch and repository; None when there is none."""
        run = self._runs.latest(kind=RUN_KIND, labels={"feature_branch": feature_branch, "repo_path": repo_path})
        return None if run is None else view(run, CHOO)

    def get_active_run_by_branch(self, feature_branch: str, repo_path: str) -> JsonObject | None:
        """Give the run of this branch and repository that runs now, to attach to it."""
        holder = self._log.find_by_exclusive_key(_key(feature_branch, repo_path))
        if holder is None or self._log.state(holder).status is not Status.RUNNING:
            return None
        return self.get_run(holder)

    def update_run_status(self, run_id: str, status: str, error: str | None = None) -> Outcome:
        """Move a run; a finished one stays as it is, and the outcome says who was first.

        Raises:
            RunNotFound: when there is no such run.
            IllegalTransition: when it cannot come to that status from where it is.
        """
        wanted = status_of(status, CHOO)
        if wanted is Status.RUNNING:
            if self._log.state(run_id).status is Status.INTERRUPTED:
                return self._log.resume(run_id, worker=self._daemon)
            return self._log.start(run_id, worker=self._daemon)
        if wanted is Status.COMPLETED:
            return self._log.complete(run_id)
        if wanted is Status.FAILED:
            return self._log.fail(run_id, error=error or "failed")
        if wanted is Status.ABORTED:
            return self._log.abort(run_id, reason=error)
        raise InvalidInput("status", f"is {status!r}; a run never goes back to pending.")

    def list_runs_by_status(self, status: str) -> list[JsonObject]:
        """Give the runs with a status, in the order of their ids."""
        return self._listed(statuses_of(status, CHOO))

    def list_incomplete_runs(self) -> list[JsonObject]:
        """Give the runs that are pending or running, in the order of their ids."""
        return self._listed([*statuses_of("pending", CHOO), *statuses_of("running", CHOO)])

    def delete_run(self, run_id: str) -> bool:
        """Take a run away with its units and all of their data; an active one is aborted first.

        Returns:
            False when there is no such run.
        """
        try:
            self._log.abort(run_id, reason="deleted", mode="deleted")
        except RunNotFound:
            return False
        for unit in self._unit_runs(run_id):
            self._log.abort(unit.run_id, reason="deleted", mode="deleted")
            self._log.purge(unit.run_id, reason="deleted", from_bin=False)
        self._log.purge(run_id, reason="deleted", from_bin=False)
        return True

    def delete_non_active(self, feature_branch: str, repo_path: str) -> int:
        """Take the finished runs of a branch and repository away; nothing needs that, since they are in nobody's way.

        Returns:
            How many there were.
        """
        labels = {"feature_branch": feature_branch, "repo_path": repo_path}
        finished = [run for run in self._all(kind=RUN_KIND, labels=labels) if run.is_terminal]
        for run in finished:
            self.delete_run(run.run_id)
        return len(finished)

    # --- stop and resume, in the same stream ------------------------------------------------------------------

    def stop(self, run_id: str, *, reason: str) -> Outcome:
        """Stop a running run, to be resumed."""
        return self._log.interrupt(run_id, reason=reason)

    def resume(self, run_id: str) -> Outcome:
        """Go on with a stopped run: the same run, its sequence goes on."""
        return self._log.resume(run_id, worker=self._daemon)

    def resume_all(
        self, *, stale_s: float = STALE_S, exists: Callable[[str], bool] | None = None
    ) -> list[ResumeReport]:
        """Take up the running runs that nobody works on any more, as a daemon does when it starts.

        A run whose last event is younger than `stale_s` is somebody's. One whose repository is gone fails; so does
        each unit whose worktree is gone; what goes wrong with one run stops no other.

        Args:
            stale_s: How old the last event of an abandoned run is at least, in seconds.
            exists: Tells whether a repository or worktree is there; None looks for its `.git`.
        """
        is_there = exists or _is_repository
        before = utc_now() - timedelta(seconds=stale_s)
        reports = []
        for run in self._all(kind=RUN_KIND, status=["running", "interrupted"]):
            if run.status is Status.INTERRUPTED or (run.updated_at is not None and run.updated_at <= before):
                try:
                    reports.append(self._take_up(run, is_there))
                except LedgerError as error:
                    reports.append(ResumeReport(run.run_id, False, str(error)))
        return reports

    def _take_up(self, run: Run, is_there: Callable[[str], bool]) -> ResumeReport:
        if not is_there(run.labels.get("repo_path", "")):
            self._log.fail(run.run_id, error="repository no longer exists")
            return ResumeReport(run.run_id, False, "repository no longer exists")
        lost = [unit for unit in self._unit_runs(run.run_id) if _is_lost(unit, is_there)]
        for unit in lost:
            self._log.fail(unit.run_id, error="worktree no longer exists")
        if run.status is Status.RUNNING:
            self._log.interrupt(run.run_id, reason="its daemon is gone")
        is_resumed = bool(self._log.resume(run.run_id, worker=self._daemon))
        return ResumeReport(run.run_id, is_resumed, None, tuple(unit.labels["unit_id"] for unit in lost))

    # --- units ------------------------------------------------------------------------------------------------

    def create_unit(
        self, run_id: str, unit_id: str, *, branch: str = "", worktree_path: str = "", status: str = "pending"
    ) -> str:
        """Make a unit of a run, once, and give its id.

        Raises:
            RunNotFound: when there is no such run.
            IdempotencyMismatch: when the run has this unit with other facts.
        """
        self._log.state(run_id)
        return self._log.enqueue(
            UNIT_KIND,
            labels={"unit_id": unit_id, "branch": branch, "worktree_path": worktree_path},
            parent_run_id=run_id,
            idempotency_key=f"{run_id}_{unit_id}",
            worker=self._daemon if status == "running" else None,
        ).id

    def list_units(self, run_id: str) -> list[JsonObject]:
        """Give the units of a run, oldest first."""
        return [
            {**view(unit, CHOO), "run_id": run_id, "unit_id": unit.labels.get("unit_id"), **_unit_places(unit)}
            for unit in self._unit_runs(run_id)
        ]

    # --- history ----------------------------------------------------------------------------------------------

    def append_event(self, run_id: str, type: str, *, unit_id: str | None = None, payload: Any = None) -> int:
        """Append an event of one's own to a run's history, in whatever status, and give its sequence.

        Raises:
            RunNotFound: when there is no such run.
        """
        recorded = self._log.record_document(run_id, type, {"unit": unit_id, "payload": payload})
        return recorded.version - 1

    def list_events(
        self,
        run_id: str,
        *,
        after_sequence: int = 0,
        type_prefix: str = "",
        unit_id: str | None = None,
        limit: int = EVENTS_DEFAULT,
    ) -> History:
        """Give the events after a sequence, in order.

        Args:
            run_id: The run.
            after_sequence: The last sequence seen; 0 at first.
            type_prefix: Only types that begin so, such as `task.`.
            unit_id: Only events of this unit.
            limit: The most events, 1 to 1,000.
        """
        check_integer(limit, field="limit", at_least=1, at_most=EVENTS_MAX)
        check_integer(after_sequence, field="after_sequence", at_least=0)
        events: list[HistoryEvent] = []
        total = 0
        for event in self._history(run_id, after_sequence):
            if event.type.startswith(type_prefix) and unit_id in (None, event.unit):
                total += 1
                if len(events) < limit:
                    events.append(event)
        return History(events, total, total > len(events))

    def _history(self, run_id: str, after_sequence: int) -> Iterator[HistoryEvent]:
        self._log.state(run_id)
        for event in self._log.read(run_id, after_version=after_sequence + 1):
            yield history_event(event)

    # --- shared -----------------------------------------------------------------------------------------------

    def _listed(self, statuses: Sequence[Status]) -> list[JsonObject]:
        runs = sorted(self._all(kind=RUN_KIND, status=statuses), key=lambda run: run.run_id)
        return [view(run, CHOO) for run in runs]

    def _unit_runs(self, run_id: str) -> list[Run]:
        return list(self._all(parent_run_id=run_id))[::-1]

    def _all(self, **filters: Any) -> Iterator[Run]:
        token = None
        while True:
            page = self._runs.list(limit=_PAGE_ROWS, page_token=token, **filters)
            yield from page.runs
            token = page.next_page_token
            if token is None:
                return


def history_event(event: RecordedRunEvent) -> HistoryEvent:
    """Give an event of the log as choo's history has it."""
    data = event.data
    created_at = timestamp(event.recorded_at)
    if isinstance(data, DocumentRecorded) and isinstance(data.document, dict):
        document = data.document
        return HistoryEvent(event.version - 1, data.name, document.get("unit"), document.get("payload"), created_at)
    name = f"run.{event.type}" if data is None else _NAMES.get(type(data), f"run.{event.type}")
    payload = {"reason": data.reason} if isinstance(data, Interrupted | Aborted) else None
    payload = {"error": data.error} if isinstance(data, Failed) else payload
    return HistoryEvent(event.version - 1, name, None, payload, created_at)


def _key(feature_branch: str, repo_path: str) -> str:
    return f"{feature_branch}\n{repo_path}"


def _is_repository(path: str) -> bool:
    return (Path(path) / ".git").exists()


def _is_lost(unit: Run, is_there: Callable[[str], bool]) -> bool:
    worktree = unit.labels.get("worktree_path", "")
    return unit.status is Status.RUNNING and bool(worktree) and not is_there(worktree)


def _unit_places(unit: Run) -> JsonObject:
    return {name: unit.labels.get(name) for name in ("branch", "worktree_path")}
