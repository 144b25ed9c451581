"""Runs, units and events of choo's daemon.db. A unit becomes a run with its run as the parent.

Ids here are made of the ids there alone: the times of a run that waits are not known yet.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from cli.imports.source_file import Row, SourceFile
from cli.imports.source_run import SourceRun
from cli.imports.values import Mend, document, integer, label, moment, text
from ledger.clock import utc_now
from ledger.errors import InvalidInput
from ledger.ids import derived_id
from ledger.run.values import Status
from projections.systems.choo import RUN_KIND, UNIT_KIND
from projections.vocabularies import CHOO, status_of

SYSTEM: Final = "choo"
_PLACES: Final = ("feature_branch", "repo_path", "target_branch", "tasks_dir", "daemon_version")


def read_runs(source: SourceFile) -> Iterator[SourceRun]:
    """Give every run of the file in the order of its id, each before its units."""
    source.require("runs", ["id", "feature_branch", "repo_path", "status"])
    for row in source.rows("runs", order_by="id"):
        run = _run(source, row)
        yield run
        for unit in source.rows("units", order_by="id", where="run_id", values=[row["id"]]):
            yield _unit(unit, run)


def _run(source: SourceFile, row: Row) -> SourceRun:
    repairs: list[str] = []
    mend = repairs.append
    notes = list(_events(source, row, mend))
    started_at, finished_at, created_at = _times(row, mend, otherwise=notes[0][2] if notes else None)
    config = document(row.get("config_json"), field="config_json", mend=mend)
    return SourceRun(
        source_id=str(row["id"]),
        run_id=derived_id(SYSTEM, str(row["id"]), at_ms=0),
        kind=RUN_KIND,
        status=_status(row, mend),
        created_at=created_at,
        started_at=started_at,
        finished_at=finished_at,
        labels=_labels({"choo_id": row["id"], **{name: row.get(name) for name in _PLACES}}, mend),
        input={"parallelism": integer(row.get("parallelism"), field="parallelism", mend=mend)},
        documents={} if config is None else {"config": config},
        notes=notes,
        error=text(row.get("error")),
        repairs=repairs,
    )


def _unit(row: Row, run: SourceRun) -> SourceRun:
    repairs: list[str] = []
    mend = repairs.append
    started_at, finished_at, created_at = _times(row, mend, otherwise=run.created_at)
    facts = {name: row.get(name) for name in ("unit_id", "branch", "worktree_path")}
    return SourceRun(
        source_id=str(row["id"]),
        run_id=derived_id(SYSTEM, "unit", str(row["id"]), at_ms=0),
        kind=UNIT_KIND,
        status=_status(row, mend),
        created_at=created_at,
        started_at=started_at,
        finished_at=finished_at,
        parent_run_id=run.run_id,
        labels=_labels({"choo_id": row["id"], **facts}, mend),
        error=text(row.get("error")),
        repairs=repairs,
    )


def _times(row: Row, mend: Mend, *, otherwise: datetime | None) -> tuple[datetime | None, datetime | None, datetime]:
    started_at = moment(row.get("started_at"), field="started_at", mend=mend)
    finished_at = moment(row.get("completed_at"), field="completed_at", mend=mend)
    created_at = started_at or otherwise or finished_at
    if created_at is None:
        created_at = utc_now()
        mend("it has no time of its own; that of the import stands for its creation")
    return started_at, finished_at, created_at


def _status(row: Row, mend: Mend) -> Status:
    word = str(row.get("status"))
    try:
        return status_of(word, CHOO)
    except InvalidInput:
        mend(f"status {word[:40]!r} is none of choo's; it counts as interrupted")
        return Status.INTERRUPTED


def _events(source: SourceFile, row: Row, mend: Mend) -> Iterator[tuple[str, Any, datetime]]:
    last = None
    for event in source.rows("events", order_by="sequence, id", where="run_id", values=[row["id"]]):
        last = moment(event.get("created_at"), field="events.created_at", mend=mend) or last or utc_now()
        payload = document(event.get("payload_json"), field="payload_json", mend=mend)
        told = {"unit": text(event.get("unit_id")), "payload": payload, "sequence": event.get("sequence")}
        yield (text(event.get("event_type")) or "event")[:200], told, last


def _labels(facts: Row, mend: Mend) -> dict[str, str]:
    kept = {name: label(value, field=name, mend=mend) for name, value in facts.items()}
    return {name: value for name, value in sorted(kept.items()) if value is not None}
