"""Runs of a Sentri database: `runs`, `run_logs` and, where there are, `run_test_results`."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from cli.imports.source_file import Row, SourceFile
from cli.imports.source_run import SourceRun
from cli.imports.values import Mend, document, integer, label, moment, result_row, text
from ledger import limits
from ledger.clock import utc_now
from ledger.errors import InvalidInput
from ledger.ids import derived_id
from ledger.run.values import GateOutcome, JsonObject, Status
from projections.systems.sentri_rows import DOCUMENTS, LABEL_COLUMNS, SHARD_COVERAGE, label_changes, shard_of
from projections.vocabularies import SENTRI, STATUS_LABEL, status_of

SYSTEM: Final = "sentri"
_TEXT_DOCUMENTS: Final = ("rateLimitError", "tracePath", "videoPath")


def read_runs(source: SourceFile) -> Iterator[SourceRun]:
    """Give every run of the file, oldest first."""
    source.require("runs", ["id", "status", "startedAt"])
    for row in source.rows("runs", order_by="rowid"):
        yield _run(source, row)


def _run(source: SourceFile, row: Row) -> SourceRun:
    repairs: list[str] = []
    mend = repairs.append
    started_at = moment(row.get("startedAt"), field="startedAt", mend=mend)
    finished_at = moment(row.get("finishedAt"), field="finishedAt", mend=mend)
    created_at = started_at or finished_at
    if created_at is None:
        created_at = utc_now()
        mend("it has neither start nor end; the time of the import stands for both")
    status = _status(row, mend)
    shard_count = integer(row.get("shardCount"), field="shardCount", mend=mend)
    if shard_count is not None and not 1 <= shard_count <= limits.SHARDS_MAX:
        mend(f"shardCount {shard_count} was left out")
        shard_count = None
    results = _results(source, row, shard_count, mend)
    gate = document(row.get("gateResult"), field="gateResult", mend=mend)
    return SourceRun(
        source_id=str(row["id"]),
        run_id=derived_id(
            SYSTEM,
            str(row["id"]),
            str(row.get("projectId")),
            str(row.get("startedAt")),
            at_ms=0 if started_at is None else max(0, int(started_at.timestamp() * 1000)),
        ),
        kind=text(row.get("type")) or "test_run",
        status=status,
        created_at=created_at,
        started_at=started_at,
        finished_at=finished_at,
        deleted_at=moment(row.get("deletedAt"), field="deletedAt", mend=mend),
        project=text(row.get("projectId")),
        labels=_labels(row, mend),
        shard_count=shard_count,
        shards_completed=integer(row.get("shardsCompleted"), field="shardsCompleted", mend=mend) or 0,
        phase=text(row.get("currentStep")),
        gate=_gate(gate),
        results=results,
        logs=list(_logs(source, row, created_at, mend)),
        documents=_documents(row, mend),
        passed=integer(row.get("passed"), field="passed", mend=mend),
        failed=integer(row.get("failed"), field="failed", mend=mend),
        total=integer(row.get("total"), field="total", mend=mend),
        error=text(row.get("error")),
        error_category=text(row.get("errorCategory")),
        duration_ms=_duration(row, mend),
        repairs=repairs,
    )


def _status(row: Row, mend: Mend) -> Status:
    word = str(row.get("status"))
    try:
        return status_of(word, SENTRI)
    except InvalidInput:
        finished = row.get("finishedAt") is not None
        mend(f"status {word[:40]!r} is none of Sentri's; it counts as {'failed' if finished else 'interrupted'}")
        return Status.FAILED if finished else Status.INTERRUPTED


def _duration(row: Row, mend: Mend) -> int | None:
    duration = integer(row.get("duration"), field="duration", mend=mend)
    if duration is not None and duration < 0:
        mend(f"duration {duration} was left out")
        return None
    return duration


def _labels(row: Row, mend: Mend) -> dict[str, str]:
    known: dict[str, Any] = {name: row[name] for name in LABEL_COLUMNS if name in row}
    known |= {
        name: document(row[name], field=name, mend=mend) for name in ("githubCheck", "coverageSummary") if name in row
    }
    labels: dict[str, str | None] = {"sentri_id": str(row["id"]), **label_changes(known)}
    if row.get("status") == "completed_empty":
        labels[STATUS_LABEL] = "completed_empty"
    kept = {name: label(value, field=name, mend=mend) for name, value in labels.items()}
    return {name: value for name, value in sorted(kept.items()) if value}


def _documents(row: Row, mend: Mend) -> dict[str, Any]:
    documents = {
        name: text(row[name]) if name in _TEXT_DOCUMENTS else document(row[name], field=name, mend=mend)
        for name in DOCUMENTS
        if row.get(name) is not None
    }
    coverage = document(row.get("shardCoverageSummaries"), field="shardCoverageSummaries", mend=mend)
    if isinstance(coverage, list):
        documents |= {f"{SHARD_COVERAGE}{shard}": item for shard, item in enumerate(coverage) if item is not None}
    traces = document(row.get("tracePaths"), field="tracePaths", mend=mend)
    if traces:
        documents["tracePaths"] = traces
    return {name: value for name, value in documents.items() if value is not None and value != []}


def _gate(result: Any) -> tuple[GateOutcome, str | None] | None:
    if not isinstance(result, dict):
        return None
    summary = "; ".join(str(violation) for violation in result.get("violations") or ())
    outcome = GateOutcome.PASSED if result.get("passed") else GateOutcome.FAILED
    return outcome, summary[: limits.TEXT_CHARS_MAX] or None


def _results(source: SourceFile, row: Row, shard_count: int | None, mend: Mend) -> list[tuple[int | None, JsonObject]]:
    """Give the stored rows, then those that only a crash's checkpoint has: the stored ones win, as Sentri read them."""
    stored = document(row.get("results"), field="results", mend=mend)
    rows = [kept for value in _as_list(stored) if (kept := result_row(value, mend=mend)) is not None]
    seen = {(each.get("testId"), each.get("iterationIndex") or 0) for each in rows}
    for saved in source.rows("run_test_results", order_by="rowid", where="runId", values=[row["id"]]):
        if (saved.get("testId"), saved.get("iterationIndex") or 0) not in seen:
            rows.append(_checkpoint(saved, mend))
    return [(_shard(each, shard_count), each) for each in rows]


def _checkpoint(saved: Row, mend: Mend) -> JsonObject:
    kept = {
        "testId": text(saved.get("testId")),
        "status": text(saved.get("status")) or "unknown",
        "iterationIndex": saved.get("iterationIndex"),
        "error": text(saved.get("error")),
        "durationMs": integer(saved.get("duration"), field="duration", mend=mend),
        "retryCount": saved.get("retryCount"),
        "_source": "checkpoint",
    }
    return {name: value for name, value in kept.items() if value is not None}


def _shard(row: JsonObject, shard_count: int | None) -> int | None:
    shard = shard_of(row)
    return shard if shard is not None and 0 <= shard < (shard_count or 1) else None


def _as_list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _logs(source: SourceFile, row: Row, otherwise: Any, mend: Mend) -> Iterator[tuple[Any, str | None, str]]:
    """Give the lines in their order: two processes gave some the same number, so their rows break the tie."""
    for line in source.rows("run_logs", order_by="seq, rowid", where="runId", values=[row["id"]]):
        at = moment(line.get("createdAt"), field="run_logs.createdAt", mend=mend) or otherwise
        yield at, text(line.get("level")) or None, text(line.get("message")) or ""
