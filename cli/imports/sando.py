"""Build runs of Sando's `build_runs` table. Its gates are of versions, not of runs, and stay where they are."""

from collections.abc import Iterator
from typing import Final

from cli.imports.source_file import Row, SourceFile
from cli.imports.source_run import SourceRun
from cli.imports.values import label, moment, text
from ledger.clock import utc_now
from ledger.errors import InvalidInput
from ledger.ids import derived_id
from ledger.run.values import Status
from projections.systems.sando import KIND
from projections.vocabularies import SANDO, SUPERSEDED, status_of

SYSTEM: Final = "sando"


def read_runs(source: SourceFile) -> Iterator[SourceRun]:
    """Give every build of the file, oldest first."""
    source.require("build_runs", ["id", "sha", "result"])
    for row in source.rows("build_runs", order_by="id"):
        yield _run(row)


def _run(row: Row) -> SourceRun:
    repairs: list[str] = []
    mend = repairs.append
    started_at = moment(row.get("started_at"), field="started_at", mend=mend)
    finished_at = moment(row.get("finished_at"), field="finished_at", mend=mend)
    created_at = started_at or finished_at
    if created_at is None:
        created_at = utc_now()
        mend("it has neither start nor end; the time of the import stands for both")
    word = str(row.get("result"))
    try:
        status = status_of(word, SANDO)
    except InvalidInput:
        status = Status.INTERRUPTED
        mend(f"result {word[:40]!r} is none of Sando's; it counts as interrupted")
    summary, phase = text(row.get("failure_summary")), text(row.get("phase"))
    return SourceRun(
        source_id=str(row["id"]),
        run_id=derived_id(
            SYSTEM,
            str(row["id"]),
            str(row["sha"]),
            str(row.get("started_at")),
            at_ms=0,
        ),
        kind=KIND,
        status=status,
        created_at=created_at,
        started_at=created_at,
        finished_at=finished_at,
        labels={"sando_id": str(row["id"]), "sha": label(row["sha"], field="sha", mend=mend) or ""},
        input={"sha": text(row["sha"])},
        phase=None if phase in (None, "queued", "done") else phase,
        version=text(row.get("version")),
        error=summary,
        error_category="superseded" if summary == SUPERSEDED else None,
        failure_summary=summary if status is Status.FAILED else None,
        repairs=repairs,
    )
