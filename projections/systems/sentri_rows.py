"""How a run of the ledger looks as a row of Sentri's, and which of its columns are kept where.

A small column is a label, so that lists have it without reading anything else; a heavy one is a document beside the
run, which no list reads. `has.<column>` is a label that says that there is one with something in it, so that the newest
runs with a heavy column are found by an index. Status, counters and times are the ledger's own.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from ledger import limits
from ledger.run.codec import RecordedRunEvent, timestamp
from ledger.run.events import (
    Aborted,
    ArtifactRecorded,
    DocumentRecorded,
    LogAppended,
    RunEvent,
    ShardResultAppended,
    Started,
)
from ledger.run.state import Run, RunState, apply_all, initial
from ledger.run.values import JsonObject, Status
from projections.vocabularies import SENTRI, statuses_of, view

RUN_TYPES: Final = ("test_run", "run", "crawl", "generate", "record")
TEST_RUN_TYPES: Final = ("test_run", "run")
"""Older rows say `run`."""

TEXT_COLUMNS: Final = ("workspaceId", "environmentId", "browser", "networkCondition")
NUMBER_COLUMNS: Final = ("parallelWorkers", "budgetMinutes", "pagesFound")
COUNT_COLUMNS: Final = ("retryCount", "failedAfterRetry", "secretScanBlocked")
"""0 where nobody said otherwise."""
LABEL_COLUMNS: Final = (*TEXT_COLUMNS, *NUMBER_COLUMNS, *COUNT_COLUMNS)

LIST_DOCUMENTS: Final = ("tests", "videoSegments", "pages", "rootCauses", "reviewRejectedTests")
"""Empty lists where there is none; the other documents are null then."""
DOCUMENTS: Final = (
    *LIST_DOCUMENTS,
    "testQueue",
    "generateInput",
    "qualityAnalytics",
    "feedbackLoop",
    "pipelineStats",
    "promptAudit",
    "impactAnalysis",
    "changedPages",
    "removedPages",
    "changedFiles",
    "changedFileRanges",
    "githubCheck",
    "gateResult",
    "webVitalsResult",
    "coverageSummary",
    "prCoverageDiff",
    "rateLimitError",
    "tracePath",
    "videoPath",
)
FOUND_DOCUMENTS: Final = ("githubCheck", "coverageSummary")
"""Those that the newest runs are listed by."""

TRACE: Final = "trace"
"""Name of the artifact that is a shard's trace."""
SHARD_COVERAGE: Final = "shardCoverageSummaries."
"""Before a shard's number: the document that is its coverage."""
DELIVERY_LABEL: Final = "deliveryId"

RUNNING: Final = statuses_of("running", SENTRI)
"""Sentri knows no queue: a run that waits for its next attempt is running for it."""

RESUMED: Final = "resumed"
"""Mode of the abort that makes room for the run that resumes this one."""


def lean_row(run: Run) -> JsonObject:
    """Give a run as lists show it: no results, no documents, no logs."""
    row = view(run, SENTRI)
    interrupted = run.status is Status.INTERRUPTED
    if interrupted and run.updated_at is not None:
        row["finishedAt"] = timestamp(run.updated_at)
    row["failureReason"] = "process_crash" if interrupted else RESUMED if run.error_category == RESUMED else None
    row |= {name: run.labels.get(name) for name in TEXT_COLUMNS}
    row |= {name: _number(run.labels.get(name)) for name in NUMBER_COLUMNS}
    row |= {name: _number(run.labels.get(name)) or 0 for name in COUNT_COLUMNS}
    del row["gateResult"]  # a document, with what it was written with
    return row


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.removeprefix("-").isdigit() else None


class LogLine(NamedTuple):
    """One line of a run's log; `seq` counts from 1 in the run."""

    seq: int
    level: str
    message: str
    created_at: str


class History:
    """A whole run, read once from its stream: rows, documents, traces and logs as of one version.

    Args:
        run_id: The run.

    Attributes:
        state: The run, folded.
        documents: The latest of each name.
        traces: Path by shard.
        logs: In order.
    """

    def __init__(self, run_id: str) -> None:
        self.state: RunState = initial(run_id)
        self.documents: dict[str, Any] = {}
        self.traces: dict[int, str] = {}
        self.logs: list[LogLine] = []
        self._rows: list[tuple[int | None, int, JsonObject]] = []
        self._seen: set[tuple[int | None, int, int]] = set()
        self._never_ran: list[JsonObject] = []

    def add(self, event: RecordedRunEvent) -> None:
        """Take in the next event."""
        if isinstance(event.data, LogAppended):
            level, at = event.data.level or "info", event.envelope.recorded_at
            first = len(self.logs) + 1
            self.logs += [LogLine(first + n, level, line, at) for n, line in enumerate(event.data.lines)]
        elif event.data is not None:
            self._note(event.data, is_open=not self.state.closed_version)
        apply_all(self.state, (event,))

    def _note(self, event: RunEvent, *, is_open: bool) -> None:
        match event:
            case DocumentRecorded():
                self.documents[event.name] = event.document
            case ArtifactRecorded(name=name, shard=int(shard)) if name == TRACE:
                self.traces[shard] = event.uri
            case ShardResultAppended() if is_open:
                self._append(event)
            case Started(attempt=attempt) if attempt > 1:  # tried anew: only what was left out before dispatch stays
                self._rows = [entry for entry in self._rows if entry[0] is None and is_non_executed_skip(entry[2])]
            case Aborted() if is_open:
                self._never_ran = event.skipped
            case _:
                pass

    def _append(self, event: ShardResultAppended) -> None:
        for index, row in enumerate(event.results):
            if event.first_sequence is not None:
                key = (event.shard, event.shard_attempt, event.first_sequence + index)
                if key in self._seen:
                    continue
                self._seen.add(key)
            self._rows.append((event.shard, event.shard_attempt, row))

    @property
    def executed(self) -> list[JsonObject]:
        """The rows that count, in order, without those of an abort."""
        shards = self.state.shards
        return [
            row
            for shard, attempt, row in self._rows
            if shard is None or shard not in shards or shards[shard].attempt == attempt
        ]

    @property
    def results(self) -> list[JsonObject]:
        """All rows that count, in order; those of an abort carry the names of their tests."""
        names = {test.get("id"): test.get("name") for test in self._queue()}
        return self.executed + [{"testName": names.get(row.get("testId")), **row} for row in self._never_ran]

    def _queue(self) -> list[JsonObject]:
        queue = self.documents.get("testQueue")
        return [test for test in queue if isinstance(test, dict)] if isinstance(queue, list) else []

    @property
    def queued_ids(self) -> list[str]:
        """The ids of the tests that the run was asked to run."""
        return [test["id"] for test in self._queue() if isinstance(test.get("id"), str)]

    @property
    def row(self) -> JsonObject:
        """The run as `getById` gives it."""
        coverage = {
            int(name.removeprefix(SHARD_COVERAGE)): document
            for name, document in self.documents.items()
            if name.startswith(SHARD_COVERAGE)
        }
        return {
            **lean_row(self.state),
            **{name: self.documents.get(name) for name in DOCUMENTS},
            **{name: self.documents.get(name) or [] for name in LIST_DOCUMENTS},
            "results": self.results,
            "tracePaths": sparse(self.traces),
            "shardCoverageSummaries": sparse(coverage),
            "logs": [line.message for line in self.logs],
        }


def sparse(slots: Mapping[int, Any]) -> list[Any] | None:
    """Give one slot a shard, null where none was written; None when none was at all."""
    return [slots.get(shard) for shard in range(max(slots) + 1)] if slots else None


def is_non_executed_skip(row: Mapping[str, Any]) -> bool:
    """Tell whether a test was left out before dispatch: such a row survives every retry."""
    return row.get("status") == "skipped" and row.get("skipReason") in ("over_budget", "skipped_no_impact")


def shard_retry_survivors(rows: Iterable[JsonObject] | None, shard: int | None) -> list[JsonObject]:
    """Give the rows that stay when a shard, or an unsharded run (None), is tried again: Sentri's filter of a list."""
    return [
        row
        for row in rows or ()
        if is_non_executed_skip(row) or (shard is not None and row.get("_shardIndex") not in (None, shard))
    ]


def shard_of(row: Mapping[str, Any]) -> int | None:
    """Give the shard that a row is filed under: none for a test left out before dispatch, whatever it says."""
    shard = row.get("_shardIndex")
    return shard if isinstance(shard, int) and not isinstance(shard, bool) and not is_non_executed_skip(row) else None


def grouped_by_shard(rows: Sequence[JsonObject]) -> list[tuple[int | None, list[JsonObject]]]:
    """Cut rows to stretches of one shard each, in order."""
    groups: list[tuple[int | None, list[JsonObject]]] = []
    for row in rows:
        shard = shard_of(row)
        if not groups or groups[-1][0] != shard:
            groups.append((shard, []))
        groups[-1][1].append(row)
    return groups


def label_changes(fields: Mapping[str, Any]) -> dict[str, str | None]:
    """Give the labels that columns become; None takes one away."""
    labels: dict[str, str | None] = {
        name: None
        if fields[name] is None
        else str(int(fields[name]) if isinstance(fields[name], bool) else fields[name])
        for name in LABEL_COLUMNS
        if name in fields
    }
    labels |= {f"has.{name}": "yes" if fields[name] else None for name in FOUND_DOCUMENTS if name in fields}
    if "githubCheck" in fields:
        check = fields["githubCheck"]
        delivery = check.get("deliveryId") if isinstance(check, Mapping) else None
        labels[DELIVERY_LABEL] = delivery if is_key(delivery) else None
    return labels


def is_key(value: object) -> bool:
    """Tell whether a value can be looked for in a label."""
    return isinstance(value, str) and 0 < len(value) <= limits.KEY_CHARS_MAX


def page_number(value: object, *, default: int, at_most: int | None = None) -> int:
    """Read a page number or size: garbage is the default, and what is too large the largest."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 9:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        return default
    return value if at_most is None else min(value, at_most)
