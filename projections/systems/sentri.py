"""Sentri's run repository on the ledger: its operations under their names, with its guards and what they gave back.

Differs from Sentri, where the ledger promises more: nothing is added to a finished run but logs, documents and traces
(an append gives 0); an abort is a terminal event like the others, and the first one wins; a saved or updated run is
the difference to what is there, so nobody's rows are written over; counters that are set to a figure move by what is
missing; ids are UUIDs. `docs/reference/sentri-operations.md` has every operation with its events.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final, NamedTuple, TypedDict, Unpack

import msgspec

from ledger import limits
from ledger.api import Ledger, Outcome
from ledger.clock import Clock, utc_now
from ledger.errors import (
    EventIdReused,
    ExclusiveKeyTaken,
    IllegalTransition,
    InvalidInput,
    LedgerError,
    Refused,
    RunClosed,
    RunNotFound,
    RunPurged,
    ShardSuperseded,
    VersionConflict,
)
from ledger.events import EventId, RunId
from ledger.ids import derived_id
from ledger.queue import PlannedSkips
from ledger.run.codec import shard_fence, timestamp
from ledger.run.commands import check_shard, within_limits
from ledger.run.events import Aborted, Annotated, DocumentRecorded, Interrupted, RunEvent, ShardResultAppended
from ledger.run.profiles import Kind
from ledger.run.shards import partition
from ledger.run.state import Run, RunState
from ledger.run.values import JsonObject, OnLost, Policy, Status, check_labels, check_results, check_uuid
from ledger.store import EXISTS, exactly, unless_closed
from ledger.subscription import Subscription
from projections.document_reader import Documents
from projections.queries import RunFilters
from projections.reader import Runs
from projections.recycle_bin import RecycleBin, all_runs
from projections.result_reader import Results
from projections.results import Result
from projections.systems.sentri_rows import (
    DELIVERY_LABEL,
    DOCUMENTS,
    RESUMED,
    RUN_TYPES,
    RUNNING,
    SHARD_COVERAGE,
    TEST_RUN_TYPES,
    TRACE,
    History,
    LogLine,
    grouped_by_shard,
    is_key,
    is_non_executed_skip,
    label_changes,
    lean_row,
    page_number,
)
from projections.vocabularies import SENTRI, STATUS_LABEL, statuses_of

KINDS: Final = tuple(
    Kind(name=name, attempts_max=2, policy=Policy(on_lost=OnLost.HOLD, retry_delay_s=5)) for name in RUN_TYPES
)
"""What Sentri's queue did: two attempts, the second after five seconds, and orphans are left for somebody to resume.
Open the ledger with these where its workers claim from it."""

ACTIVE_KEY: Final = "active"
"""The exclusive key: one active run a project, whatever its type."""
ORPHAN_S: Final = 60
PAGE_SIZE: Final = 10
PAGE_SIZE_MAX: Final = 200
_ROWS_OF_NEWEST: Final = 50
"""Runs read at once where only the newest few are wanted."""
NEVER_RAN: Final = "Aborted before execution"
ORPHAN_ERROR: Final = "Server restarted while run was in progress"


class ShardsCompleted(NamedTuple):
    """What `increment_shards_completed` gives: `advanced` is 1 for the caller that moved the counter, else 0."""

    advanced: int
    new_value: int


class Survivors(NamedTuple):
    """How many of the rows that a purge left passed, and how many failed."""

    passed: int
    failed: int


class PageMeta(TypedDict):
    total: int
    page: int
    pageSize: int
    hasMore: bool


class Page(TypedDict):
    """One page of a project's runs."""

    data: list[JsonObject]
    meta: PageMeta


class Orphans(msgspec.Struct, frozen=True):
    """The runs that a sweep interrupted."""

    count: int
    ids: list[str]


class Checkpoint(NamedTuple):
    """What became of a result that is written once; `reason` says why it was there already."""

    inserted: bool
    reason: str | None = None


class ResumedRun(NamedTuple):
    """A new run for the tests that an interrupted one has no result of."""

    run_id: str
    resumed_from_run_id: str
    completed: int
    remaining: int
    total: int


class NotResumable(LedgerError):
    """A run cannot be resumed.

    Attributes:
        code: Sentri's word for why: `RUN_NOT_RESUMABLE`, `RUN_TYPE_NOT_RESUMABLE`, `RUN_ALREADY_ACTIVE`,
            `RUN_NO_QUEUE`, `RUN_ALREADY_COMPLETE`, `RUN_NO_REMAINING_TESTS`.
    """

    def __init__(self, *, run_id: str, code: str, why: str) -> None:
        self.run_id = run_id
        self.code = code
        super().__init__(f"run {run_id} cannot be resumed: {why} ({code}). Look at it, or start a new run.")


class SentriRuns:
    """Sentri's runs.

    Args:
        log: The ledger.
        worker: Who starts runs, as the log names it.
        clock: Tells the time, for the age of orphans.

    Attributes:
        duplicates: How often `record_checkpoint` found a result that was there already, by reason.
    """

    def __init__(self, log: Ledger, *, worker: str = "sentri", clock: Clock = utc_now) -> None:
        self._log = log
        self._runs = Runs(log)
        self._results = Results(log)
        self._documents = Documents(log)
        self._worker = worker
        self._clock = clock
        self.duplicates: Counter[str] = Counter()

    # --- making and changing a run ----------------------------------------------------------------------------

    def create(self, run: Mapping[str, Any], *, idempotency_key: str | None = None, retry_of: str | None = None) -> str:
        """Make a run that runs at once, and give its id.

        Args:
            run: Its columns; `projectId` and `type` at least. `testQueue` without the tests that `results` leaves out
                is cut into `shardCount` slices. What is no column is ignored.
            idempotency_key: The same key with the same facts gives the same run.
            retry_of: The run that this one repeats.

        Raises:
            ExclusiveKeyTaken: when a run of the project is active; it names that one. An interrupted one makes room.
        """
        shard_count = run.get("shardCount")
        left_out = check_results(run.get("results") or [])
        arguments: dict[str, Any] = {
            "project": run.get("projectId"),
            "shard_count": shard_count,
            "total": run.get("total"),
            "labels": {name: value for name, value in label_changes(run).items() if value is not None},
            "plan": _plan(run.get("testQueue"), left_out, shard_count or 1),
            "attempts_max": 2,
            "exclusive_key": None if run.get("projectId") is None else ACTIVE_KEY,
            "idempotency_key": idempotency_key,
            "retry_of": retry_of,
            "worker": self._worker,
            "run_id": run.get("id"),
        }
        try:
            made = self._log.enqueue(run.get("type") or "test_run", **arguments)
        except ExclusiveKeyTaken as taken:
            holder = self._log.state(taken.active_run_id)
            if not self._give_way(holder, reason="superseded by a newer run", mode="superseded"):
                raise
            made = self._log.enqueue(run.get("type") or "test_run", **arguments)
        if made.is_new:
            self._record(made.id, {name: run[name] for name in DOCUMENTS if run.get(name) is not None}, labels={})
            self.append_run_results(made.id, left_out)
        return made.id

    def update(self, run_id: str, fields: Mapping[str, Any]) -> bool:
        """Change columns of a run; what is no column, and `id`, is ignored.

        Returns:
            False when there is no such run, or a status was asked for that it cannot come to any more.

        Raises:
            InvalidInput: when a value cannot be stored, or the status is none of Sentri's.
        """
        state = self._state(run_id)
        if state is None or state.purged_version:
            return False
        _check_status(fields)
        documents = {name: fields[name] for name in DOCUMENTS if name in fields}
        changed = {name: label for name, label in label_changes(fields).items() if state.labels.get(name) != label}
        self._record(run_id, documents, labels=changed)
        if isinstance(fields.get("gateResult"), Mapping):
            self._finish_gate(run_id, fields["gateResult"])
        self._set_counters(state, fields)
        if fields.get("currentStep") is not None:
            with suppress(IllegalTransition):
                self._log.enter_phase(run_id, str(fields["currentStep"]))
        return "status" not in fields or self._set_status(state, fields)

    def save(self, run: Mapping[str, Any]) -> bool:
        """Save a whole run: what differs from what is there is written, and no row of it is ever taken away.

        Returns:
            As `update`.
        """
        run_id = run.get("id")
        history = self._history(run_id)
        if history is None or not isinstance(run_id, str):
            return False
        known = history.row
        fields = {name: value for name, value in run.items() if name in known and known[name] != value}
        rows = fields.pop("results", None)
        if isinstance(rows, Sequence):
            self.append_run_results(run_id, _added(known["results"], rows))
        return self.update(run_id, fields)

    def append_run_results(
        self, run_id: str, new_results: Sequence[JsonObject], *, shard_attempt: int | None = None
    ) -> int:
        """Append rows in order; each goes to the shard that its `_shardIndex` names.

        Args:
            run_id: The run.
            new_results: The rows, each with a `status`.
            shard_attempt: Which attempt of the shard they come from; None is its newest. A worker that says it is
                refused once somebody else retried the shard.

        Returns:
            How many were appended: 0 for none, for an unknown run, and for a finished one.
        """
        if not isinstance(new_results, list | tuple) or not new_results:
            return 0
        groups = grouped_by_shard(check_results(new_results))
        if len(groups) > 1:
            state = self._state(run_id)
            for shard, _ in groups:
                if shard is not None and state is not None:
                    check_shard(state, shard)  # all of them, before any row is written
        return sum(self._append_rows(run_id, rows, shard, shard_attempt) for shard, rows in groups)

    def increment_run_stats(
        self, run_id: str, *, passed_delta: int = 0, failed_delta: int = 0, total_delta: int = 0
    ) -> int:
        """Move the counters; 1 when they moved, 0 when every delta is 0 or the run is finished or unknown."""
        if not _is_id(run_id):
            return 0
        return self._log.increment_stats(run_id, passed=passed_delta, failed=failed_delta, total=total_delta)

    def increment_shards_completed(self, run_id: str, shard: int | None = None) -> ShardsCompleted:
        """Move the counter of completed shards, never past their number.

        Args:
            run_id: The run.
            shard: Which one is done, so that it counts once however often it is delivered; None is Sentri's nameless
                counter.
        """
        if self._state(run_id) is None:
            return ShardsCompleted(0, 0)
        if shard is None:
            outcome = self._log.increment_shards_completed(run_id)
        else:
            outcome = self._log.complete_shard(run_id, shard)
        return ShardsCompleted(int(outcome.advanced), outcome.new_value)

    # --- how a run ends, and is tried again -------------------------------------------------------------------

    def mark_run_failed_first_writer_wins(
        self, run_id: str | None, *, error: str | None = None, error_category: str | None = None
    ) -> bool:
        """Fail a running run; True for the one caller whose error it keeps."""
        state = self._state(run_id)
        if state is None or state.status not in RUNNING:
            return False
        category = error_category or "unknown"
        return self._log.fail(state.run_id, error=error or "Shard failed", category=category).won

    def mark_run_completed_first_writer_wins(
        self,
        run_id: str | None,
        *,
        finished_at: str | datetime | None = None,
        duration: int | None = None,
        quality_analytics: Any = None,
    ) -> bool:
        """Complete a running run; True for the one caller that did."""
        if self._state(run_id) is None or run_id is None:
            return False
        try:
            won = self._log.complete(run_id, finished_at=_moment(finished_at), duration_ms=duration).won
        except IllegalTransition:
            return False
        if won and quality_analytics is not None:
            self._log.record_document(run_id, "qualityAnalytics", quality_analytics)
        return won

    def reset_run_for_retry_if_still_running(self, run_id: str) -> bool:
        """Ask whether a shard may be tried again, and note that it is: False tells the caller to touch nothing."""
        state = self._state(run_id)
        if state is None or state.status is not Status.RUNNING:
            return False
        labels: dict[str, str | None] = {"pagesFound": "0"} if "pagesFound" in state.labels else {}
        with suppress(RunClosed):
            self._log.append(run_id, [Annotated(note="reset for a retry", labels=labels)], when=unless_closed())
            return True
        return False

    def purge_shard_results(self, run_id: str, shard_index: int) -> Survivors:
        """Let a shard begin anew: its rows count no more, and its older attempt can append none.

        Returns:
            What is left passed and failed; zeros for a shard or run that there is not. Of a finished run nothing is
            taken away.
        """
        if not isinstance(shard_index, int) or isinstance(shard_index, bool):
            return Survivors(0, 0)
        try:
            self._log.retry_shard(run_id, shard_index, reason="its results are purged")
        except (RunNotFound, InvalidInput):
            return Survivors(0, 0)
        state = self._log.state(run_id)
        return Survivors(state.counted_passed, state.counted_failed)

    def retry_run(self, run_id: str, *, error: str, error_category: str | None = None) -> bool:
        """Try a run that is not cut into shards once more: only tests left out before dispatch keep their rows.

        Returns:
            False when it is finished, or no attempt is left.
        """
        try:
            return bool(
                self._log.fail_attempt(run_id, error=error, category=error_category)
                and self._log.start(run_id, worker=self._worker)
            )
        except IllegalTransition:
            return False

    def abort(self, run_id: str, *, reason: str = "Aborted by user") -> Outcome:
        """End a run; the tests of its queue that have no row get a skipped one in the same event.

        Returns:
            True in a condition when this call ended it; else `winner` is the event that was first.

        Raises:
            RunNotFound: when there is no such run.
        """
        return self._log.abort(run_id, reason=reason)

    def subscribe_to_aborts(self, *, after: int = 0) -> Subscription:
        """Follow the runs whose workers must stop, whichever process says so, from a position in the log on."""
        return self._log.subscribe(after=after, types=["abort_requested", "aborted", "failed"])

    # --- beside a run -----------------------------------------------------------------------------------------

    def set_shard_trace_path(self, run_id: str, shard_index: int, path: str) -> None:
        """Keep where a shard's trace is; a shard or run that there is not is passed over."""
        with suppress(InvalidInput, RunNotFound):
            self._log.record_artifact(run_id, TRACE, path, shard=_shard_index(shard_index))

    def set_shard_coverage_summary(self, run_id: str, shard_index: int, summary: Any) -> None:
        """Keep a shard's coverage; a shard or run that there is not is passed over."""
        state = self._state(run_id)
        if state is not None and _shard_index(shard_index) < state.shards_cap:
            self._log.record_document(run_id, f"{SHARD_COVERAGE}{shard_index}", summary)

    def append_log(self, run_id: str, message: str, *, level: str = "info", shard: int | None = None) -> None:
        """Append a line to the run's log; lines count 1, 2, 3 … in the order of the run's stream."""
        self._log.append_log(run_id, [message], source="sentri", level=level, shard=shard)

    def get_logs(self, run_id: str) -> list[LogLine]:
        """Give a run's log; none for an unknown run."""
        history = self._history(run_id)
        return [] if history is None else history.logs

    # --- one run ----------------------------------------------------------------------------------------------

    def get_by_id(self, run_id: str | None) -> JsonObject | None:
        """Give a run with everything; None when it is unknown, deleted or purged."""
        row = self.get_by_id_include_deleted(run_id)
        return None if row is None or row["deletedAt"] is not None else row

    def get_by_id_include_deleted(self, run_id: str | None) -> JsonObject | None:
        """Give a run with everything, from the bin as well."""
        history = self._history(run_id)
        return None if history is None else history.row

    def find_active_by_project_id(
        self, project_id: str, types: Collection[str] = ("crawl", "test_run", "generate")
    ) -> JsonObject | None:
        """Give a running run of a project and one of these types."""
        for run in all_runs(self._runs, rows=_ROWS_OF_NEWEST, project=project_id, status=RUNNING):
            if run.kind in types:
                return lean_row(run)
        return None

    def find_by_github_delivery_id(self, project_id: str, delivery_id: str) -> JsonObject | None:
        """Give the run that a webhook delivery launched; the same commit in another delivery is another run."""
        if not is_key(delivery_id):
            return None
        run = self._runs.latest(project=project_id, labels={DELIVERY_LABEL: delivery_id})
        return None if run is None else self.get_by_id(run.run_id)

    def find_latest_result_for_test(self, test_id: str) -> JsonObject | None:
        """Give a test's newest row with its `runId`; None when no run of Sentri's that is not deleted has one."""
        found = self._results.latest(test_id)
        if found is not None and found.kind not in RUN_TYPES:  # other programs' runs are on the ledger as well
            of_kinds = [self._results.latest(test_id, kind=kind) for kind in RUN_TYPES]
            rows = [each for each in of_kinds if each is not None]
            found = max(rows, key=_age, default=None)
        return None if found is None else {**found.data, "runId": found.run_id}

    # --- lists: newest first, lean unless they say otherwise ---------------------------------------------------

    def get_by_project_id(self, project_id: str) -> Iterator[JsonObject]:
        """Give a project's runs one by one."""
        return map(lean_row, all_runs(self._runs, project=project_id))

    def get_by_project_id_paged(self, project_id: str, page: object = 1, page_size: object = PAGE_SIZE) -> Page:
        """Give one page of a project's runs; a page or a size that is none takes the default."""
        number = page_number(page, default=1)
        size = page_number(page_size, default=PAGE_SIZE, at_most=PAGE_SIZE_MAX)
        total, offset = self._runs.count(project=project_id), (number - 1) * size
        rows = min(offset + size, limits.LIST_ROWS_MAX)
        runs = islice(all_runs(self._runs, rows=rows, project=project_id), offset, offset + size)
        data = [lean_row(run) for run in runs] if offset < total else []
        return {
            "data": data,
            "meta": {"total": total, "page": number, "pageSize": size, "hasMore": offset + len(data) < total},
        }

    def get_deleted_by_project_id(self, project_id: str) -> Iterator[JsonObject]:
        """Give the runs of a project that are in the bin."""
        return map(lean_row, all_runs(self._runs, project=project_id, deleted="only"))

    def get_deleted_all(self) -> Iterator[JsonObject]:
        """Give all runs that are in the bin."""
        return map(lean_row, self._all(deleted="only"))

    def count_by_project_ids(self, project_ids: Iterable[str]) -> int:
        """Count the runs of projects, however many those are."""
        names = sorted(set(project_ids))
        starts = range(0, len(names), limits.LIST_ROWS_MAX)
        parts = (names[start : start + limits.LIST_ROWS_MAX] for start in starts)
        return sum(sum(self._runs.count_by_project(part).values()) for part in parts)

    def get_all_with_results(self) -> Iterator[JsonObject]:
        """Give all runs with their rows and `feedbackLoop`, one at a time."""
        return map(self._with_results, self._all())

    def get_with_results_by_project_ids(self, project_ids: Iterable[str]) -> Iterator[JsonObject]:
        """Give the runs of projects with their rows and `feedbackLoop`, one at a time."""
        for project in dict.fromkeys(project_ids):
            yield from map(self._with_results, all_runs(self._runs, project=project))

    def get_recent_completed_with_results(self, project_id: str, limit: int = 20) -> list[JsonObject]:
        """Give the newest completed test runs that have rows, with little but those."""
        runs = (run for run in self._completed_tests(project_id) if run.statuses)
        fields = ("id", "type", "status", "startedAt")
        return [{**_some(lean_row(run), fields), "results": self._rows(run)} for run in islice(runs, limit)]

    def get_recent_test_runs_for_github_base(self, project_id: str, limit: int = 25) -> list[JsonObject]:
        """Give the newest completed test runs that have a `githubCheck`."""
        runs = self._completed_tests(project_id, labels={"has.githubCheck": "yes"})
        fields = ("id", "type", "status", "failed")
        return [
            {**self._with_document(run, fields, "githubCheck"), "results": self._rows(run)}
            for run in islice(runs, limit)
        ]

    def get_latest_crawl_with_changed_pages(self, project_id: str) -> JsonObject | None:
        """Give the newest crawl that found changed pages."""
        found = self._documents.latest("changedPages", project=project_id, kinds=["crawl"])
        if found is None:
            return None
        return {**_some(lean_row(self._runs.get(found[0])), ("id", "startedAt")), "changedPages": found[1]}

    def get_latest_discovered_page_urls(self, project_id: str) -> list[str]:
        """Give the URLs that the newest crawl or recording found, each once, oldest first."""
        found = self._documents.latest("pages", project=project_id, kinds=["crawl", "record"])
        pages = found[1] if found is not None and isinstance(found[1], list) else []
        urls = [page.get("url") if isinstance(page, dict) else page for page in pages]
        return list(dict.fromkeys(url for url in urls if isinstance(url, str)))

    def get_runs_with_coverage(self, project_id: str, *, days: int = 60, limit: int = 200) -> list[JsonObject]:
        """Give the newest runs that have a `coverageSummary`, oldest first."""
        since = self._clock() - timedelta(days=days)
        with_coverage = {"has.coverageSummary": "yes"}
        runs = islice(all_runs(self._runs, project=project_id, since=since, labels=with_coverage), limit)
        rows = [self._with_document(run, ("id", "startedAt"), "coverageSummary") for run in runs]
        return rows[::-1]

    # --- the bin ----------------------------------------------------------------------------------------------

    def delete_by_project_id(self, project_id: str) -> list[str]:
        """Put a project's runs into the bin.

        Returns:
            The ids of those that were not there before; an active run stays where it is.
        """
        deleted = []
        for run in all_runs(self._runs, project=project_id):
            with suppress(IllegalTransition):
                if self._log.delete(run.run_id).winner is not None:
                    deleted.append(run.run_id)
        return deleted

    def restore(self, run_id: str) -> bool:
        """Take a run out of the bin; False when it was not there."""
        with suppress(RunNotFound, RunPurged, InvalidInput):
            return self._log.restore(run_id).winner is not None
        return False

    def restore_by_project_id_after(self, project_id: str, deleted_after: str | datetime) -> int:
        """Take those runs of a project out of the bin that went there at this moment or later; give how many."""
        moment = _moment(deleted_after)
        if moment is None:
            return 0
        return len(RecycleBin(self._log).restore_project(project_id, deleted_since=moment))

    def hard_delete_by_id(self, run_id: str) -> None:
        """Erase a finished run's data, logs and all; its place in the log stays.

        Raises:
            IllegalTransition: when it is active; abort it first.
        """
        with suppress(RunNotFound):
            self._log.purge(run_id, from_bin=False)

    def hard_delete_by_project_id(self, project_id: str) -> list[str]:
        """Erase the data of a project's finished runs, and give their ids."""
        erased = []
        for run in all_runs(self._runs, project=project_id, deleted="include"):
            if run.is_terminal and run.purged_at is None:
                self._log.purge(run.run_id, from_bin=False)
                erased.append(run.run_id)
        return erased

    # --- crashes ----------------------------------------------------------------------------------------------

    def mark_orphans_interrupted(self, *, stale_s: float = ORPHAN_S) -> Orphans:
        """Interrupt the running runs that nobody works on.

        A run is somebody's while its last event is younger than `stale_s` seconds, or a lease of it lasts; whose host
        just started does not matter. A run that gets an event meanwhile is left alone.
        """
        before = self._clock() - timedelta(seconds=stale_s)
        ids = []
        for kind in RUN_TYPES:
            for run in all_runs(self._runs, kind=kind, status=Status.RUNNING):
                is_silent = run.updated_at is not None and run.updated_at <= before
                if is_silent and not self._is_leased(run.run_id) and self._interrupt(run):
                    ids.append(run.run_id)
        return Orphans(len(ids), ids)

    def record_checkpoint(
        self, run_id: str, row: JsonObject, *, reason: str = "duplicate_dispatch", shard_attempt: int = 1
    ) -> Checkpoint:
        """Append a row once for its test and `iterationIndex`, whoever sends it again, from whichever process.

        Args:
            run_id: The run.
            row: The row, with a `testId`.
            reason: What a second one is counted as in `duplicates`.
            shard_attempt: Of its shard; a newer attempt may write the test's row anew.

        Returns:
            Whether it was inserted; else why not: `reason`, or that the run is `finished` or the attempt `superseded`.

        Raises:
            RunNotFound: when there is no such run.
        """
        [checked] = check_results([row])
        [(shard, rows)] = grouped_by_shard([checked])
        at_ms = int(check_uuid(run_id, field="run_id").replace("-", "")[:12], 16)  # any fixed moment: the run's own
        facts = (run_id, str(shard), shard_attempt, str(row.get("testId")), int(row.get("iterationIndex") or 0))
        event_id = EventId(derived_id("checkpoint", *facts, at_ms=at_ms))
        fence = unless_closed() if shard is None else unless_closed(shard_fence(shard), shard_attempt)
        try:
            event = _results(rows, shard, shard_attempt)
            is_known = self._log.append(run_id, [event], when=fence, event_ids=[event_id]).is_duplicate
        except EventIdReused:
            is_known = True
        except RunClosed:
            return Checkpoint(False, "finished")
        except ShardSuperseded:
            return Checkpoint(False, "superseded")
        if not is_known:
            return Checkpoint(True)
        self.duplicates[reason] += 1
        return Checkpoint(False, reason)

    def resume(self, run_id: str, *, approved: Collection[str] | None = None) -> ResumedRun:
        """Make a new run of the tests that an interrupted test run has no row of; the old one ends as resumed.

        Args:
            run_id: The interrupted run.
            approved: The tests that still exist; None takes all of the old run's queue.

        Raises:
            NotResumable: when it is none that can be resumed, or was resumed already.
            RunNotFound: when there is no such run.
        """
        history = self._history(run_id)
        if history is None:
            raise RunNotFound(run_id)
        remaining = _remaining(history, approved)
        with_row = len(history.queued_ids) - len(_undone(history))
        self._give_way(history.state, reason="resumed by a new run", mode=RESUMED)
        if self._log.state(run_id).error_category != RESUMED:
            raise NotResumable(run_id=run_id, code="RUN_NOT_RESUMABLE", why="it is not interrupted any more")
        queue = [test for test in history.documents["testQueue"] if test.get("id") in remaining]
        try:
            made = self._log.enqueue(
                history.state.kind,
                project=history.state.project,
                labels=dict(history.state.labels),
                shard_count=1,
                total=len(remaining),
                attempts_max=2,
                plan=[remaining],
                exclusive_key=history.state.exclusive_key,
                idempotency_key=f"resume:{run_id}",
                retry_of=run_id,
                worker=self._worker,
            )
        except ExclusiveKeyTaken as taken:
            if self._log.state(taken.active_run_id).retry_of == run_id:
                raise _resumed_already(run_id, taken.active_run_id) from taken
            why = f"run {taken.active_run_id} is active"
            raise NotResumable(run_id=run_id, code="RUN_ALREADY_ACTIVE", why=why) from taken
        if not made.is_new:
            raise _resumed_already(run_id, made.id)
        self._log.record_document(made.id, "testQueue", queue)
        return ResumedRun(made.id, run_id, with_row, len(remaining), len(history.queued_ids))

    # --- shared steps -----------------------------------------------------------------------------------------

    def _state(self, run_id: str | None) -> RunState | None:
        if not _is_id(run_id):
            return None
        try:
            return self._log.state(str(run_id))
        except (RunNotFound, InvalidInput):
            return None

    def _history(self, run_id: str | None) -> History | None:
        """Read a run from its stream; None when it is unknown or purged."""
        if not _is_id(run_id):
            return None
        history = History(str(run_id))
        try:
            for event in self._log.read(str(run_id)):
                history.add(event)
        except InvalidInput:
            return None
        return None if history.state.version == 0 or history.state.purged_version else history

    def _rows(self, run: Run) -> list[JsonObject]:
        rows: list[JsonObject] = []
        token: str | None = None
        while run.statuses:
            page = self._results.of_run(run.run_id, page_token=token)
            rows += [result.data for result in page.results]
            token = page.next_page_token
            if token is None:
                break
        return rows

    def _with_document(self, run: Run, fields: Sequence[str], name: str) -> JsonObject:
        return {**_some(lean_row(run), fields), name: self._documents.get(run.run_id, name)}

    def _with_results(self, run: Run) -> JsonObject:
        row = lean_row(run)
        return {**self._with_document(run, tuple(row), "feedbackLoop"), "results": self._rows(run)}

    def _all(self, **filters: Unpack[RunFilters]) -> Iterator[Run]:
        return (run for run in all_runs(self._runs, **filters) if run.kind in RUN_TYPES)

    def _completed_tests(self, project_id: str, *, labels: Mapping[str, str] | None = None) -> Iterator[Run]:
        completed = all_runs(
            self._runs, rows=_ROWS_OF_NEWEST, project=project_id, status=Status.COMPLETED, labels=labels
        )
        return (run for run in completed if run.kind in TEST_RUN_TYPES)

    def _append_rows(self, run_id: str, rows: list[JsonObject], shard: int | None, attempt: int | None) -> int:
        """Append rows of one shard; its newest attempt is looked up only when the first one is not it."""
        if not _is_id(run_id):
            return 0
        try:
            count = self._log.append_results(run_id, rows, shard=shard, shard_attempt=attempt or 1)
        except RunNotFound:
            return 0
        if count or shard is None or attempt is not None:
            return count
        newest = _attempt(self._log.state(run_id), shard)
        return 0 if newest == 1 else self._log.append_results(run_id, rows, shard=shard, shard_attempt=newest)

    def _record(self, run_id: str, documents: Mapping[str, Any], *, labels: Mapping[str, str | None]) -> None:
        events: list[RunEvent] = [DocumentRecorded(name=name, document=value) for name, value in documents.items()]
        if labels:
            check_labels({name: value or "" for name, value in labels.items()})
            events.append(Annotated(labels=dict(sorted(labels.items()))))
        if events:
            self._log.append(run_id, events, when=EXISTS)

    def _finish_gate(self, run_id: str, result: Mapping[str, Any]) -> None:
        outcome = "passed" if result.get("passed") else "failed"
        summary = "; ".join(str(violation) for violation in result.get("violations") or ())
        with suppress(IllegalTransition):
            self._log.finish_gate(run_id, "quality", outcome, summary=summary[: limits.TEXT_CHARS_MAX] or None)

    def _set_counters(self, state: RunState, fields: Mapping[str, Any]) -> None:
        """Move counters to where a whole row says they are: by what is missing, so a sibling's move is not undone."""
        passed, failed, total = (_figure(fields, name, getattr(state, name)) for name in ("passed", "failed", "total"))
        if (passed, failed, total) != (state.passed, state.failed, state.total):
            moved = (passed, failed) != (state.passed, state.failed)
            self._log.increment_stats(
                state.run_id,
                passed=passed - state.stats_passed if moved else 0,
                failed=failed - state.stats_failed if moved else 0,
                total=total - state.total,
            )
        for _ in range(state.shards_completed, min(_figure(fields, "shardsCompleted", 0), state.shards_cap)):
            self._log.increment_shards_completed(state.run_id)

    def _set_status(self, state: RunState, fields: Mapping[str, Any]) -> bool:
        word, error = fields["status"], fields.get("error")
        finished_at, duration = _moment(fields.get("finishedAt")), fields.get("duration")
        try:
            if word == "running":
                return state.status in RUNNING or self._log.resume(state.run_id, worker=self._worker).won
            if word in ("completed", "completed_empty"):
                return self._complete(state, word, finished_at, duration)
            if word == "failed":
                category = fields.get("errorCategory") or "unknown"
                text = error or "failed"
                return self._log.fail(
                    state.run_id, error=text, category=category, finished_at=finished_at, duration_ms=duration
                ).won
            if word == "aborted":
                reason = error or "Aborted by user"
                return self._log.abort(state.run_id, reason=reason, finished_at=finished_at, duration_ms=duration).won
            if word == "interrupted":
                return self._log.interrupt(state.run_id, reason=error or ORPHAN_ERROR).won
        except IllegalTransition:
            return False
        return False

    def _complete(self, state: RunState, word: str, finished_at: datetime | None, duration: int | None) -> bool:
        if word != "completed" and not state.is_terminal:
            self._log.annotate(state.run_id, labels={STATUS_LABEL: word})
        return self._log.complete(state.run_id, finished_at=finished_at, duration_ms=duration).won

    def _give_way(self, run: RunState, *, reason: str, mode: str) -> bool:
        """End an interrupted run, if it still is one: somebody may take it up again at the same moment."""
        if run.status is not Status.INTERRUPTED:
            return False
        skipped = PlannedSkips(self._log.store, RunId(run.run_id)).of(run)
        aborted = Aborted(finished_at=self._clock(), reason=reason, mode=mode, skipped=skipped)
        with suppress(VersionConflict, RunClosed):
            self._log.append(run.run_id, within_limits(aborted), when=exactly(run.version))
            return True
        return False

    def _is_leased(self, run_id: str) -> bool:
        return any(task.deadline is not None and not task.is_overdue for task in self._log.tasks(run_id=run_id))

    def _interrupt(self, run: Run) -> bool:
        with suppress(VersionConflict, Refused):
            self._log.append(run.run_id, [Interrupted(reason=ORPHAN_ERROR)], when=exactly(run.version))
            return True
        return False


def _age(result: Result) -> tuple[str, str]:
    """Give what orders results as the ledger does: a run that never was enqueued is older than any other."""
    return "" if result.created_at is None else timestamp(result.created_at), result.run_id


def _is_id(run_id: object) -> bool:
    return isinstance(run_id, str) and len(run_id) == 36


def _check_status(fields: Mapping[str, Any]) -> None:
    """Check what else could be refused only when a part of an update is written."""
    _moment(fields.get("finishedAt"))
    if "status" in fields:
        statuses_of(fields["status"], SENTRI)


def _shard_index(value: int) -> int:
    """Give a shard's number, or one that no run has."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else limits.SHARDS_MAX


def _moment(value: str | datetime | None) -> datetime | None:
    if not isinstance(value, str):
        return value
    try:
        return datetime.fromisoformat(value)
    except ValueError as exc:
        raise InvalidInput("time", f"{value!r} is no ISO 8601 time such as 2026-03-01T12:00:00.000Z.") from exc


def _figure(fields: Mapping[str, Any], name: str, known: int) -> int:
    value = fields.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else known


def _some(row: JsonObject, names: Iterable[str]) -> JsonObject:
    return {name: row[name] for name in names}


def _attempt(state: RunState, shard: int | None) -> int:
    return state.shards[shard].attempt if shard is not None and shard in state.shards else 1


def _results(rows: list[JsonObject], shard: int | None, attempt: int) -> ShardResultAppended:
    return ShardResultAppended(results=rows, shard=shard, shard_attempt=1 if shard is None else attempt)


def _added(known: Sequence[JsonObject], rows: Sequence[JsonObject]) -> list[JsonObject]:
    """Give the rows that are not among those that are there, each as often as it is there more."""
    left = list(known)
    added = []
    for row in rows:
        if row in left:
            left.remove(row)
        else:
            added.append(row)
    return added


def _plan(queue: object, left_out: Sequence[JsonObject], shard_count: int) -> list[list[str]]:
    """Cut the tests that will run to slices, one a shard."""
    if not isinstance(queue, list):
        return []
    skipped = {row.get("testId") for row in left_out if is_non_executed_skip(row)}
    ids = [test["id"] for test in queue if isinstance(test, dict) and isinstance(test.get("id"), str)]
    wanted = [test_id for test_id in ids if test_id not in skipped]
    return [list(piece) for piece in partition(wanted, shard_count)] if wanted else []


def _resumed_already(run_id: str, by: str) -> NotResumable:
    return NotResumable(run_id=run_id, code="RUN_NOT_RESUMABLE", why=f"run {by} resumed it")


def _undone(history: History) -> list[str]:
    done = {row.get("testId") for row in history.executed if row.get("error") != NEVER_RAN}
    return [test_id for test_id in history.queued_ids if test_id not in done]


def _remaining(history: History, approved: Collection[str] | None) -> list[str]:
    """Give what is left to do of a run that may be resumed.

    Raises:
        NotResumable: when it may not.
    """
    state = history.state
    undone = _undone(history)
    remaining = undone if approved is None else [test_id for test_id in undone if test_id in approved]
    refusals = (
        (state.kind not in TEST_RUN_TYPES, "RUN_TYPE_NOT_RESUMABLE", f"it is a {state.kind}"),
        (
            state.status is not Status.INTERRUPTED and state.error_category != RESUMED,
            "RUN_NOT_RESUMABLE",
            f"it is {state.status}",
        ),
        (not history.queued_ids, "RUN_NO_QUEUE", "it has no queue of tests"),
        (not undone, "RUN_ALREADY_COMPLETE", "every test has a result"),
        (not remaining, "RUN_NO_REMAINING_TESTS", "the tests that are left exist no more"),
    )
    for is_refused, code, why in refusals:
        if is_refused:
            raise NotResumable(run_id=state.run_id, code=code, why=why)
    return remaining
