"""`runfold stuck` and `sweep`: what waits for whom, and settling what dead workers left behind."""

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import click

from cli.config import Setting
from cli.options import (
    DURATION,
    JsonCommand,
    output_options,
    reading_ledger,
    require_ledger,
    url_option,
    writing_ledger,
)
from cli.output import Cell, Column, Output

if TYPE_CHECKING:
    from ledger.queue import Swept
    from ledger.run.values import JsonObject
    from ledger.stuck import StuckTask

STUCK_FIELDS: Final = ("run_id", "kind", "project", "why", "shards", "worker", "since", "until", "waits_for")
SWEPT_FIELDS: Final = ("run_id", "shard", "worker", "events")


# --- stuck --------------------------------------------------------------------------------------------------


@click.command(cls=JsonCommand, short_help="Tell what makes no progress, and whom it waits for.")
@click.option("--older-than", type=DURATION, help="Leave out what has been so for less long.  [default: 10m]")
@click.option("--ahead", type=DURATION, help="Tell what is scheduled for later than this from now.  [default: 1d]")
@output_options(lambda: STUCK_FIELDS)
@url_option
def stuck(*, older_than: timedelta | None, ahead: timedelta | None, url: Setting, output: Output) -> None:
    """Tell what makes no progress, and whom it waits for. Nothing is changed.

    \b
    lease_over       its worker's lease is over: a sweep settles it
    interrupted      nobody works on it: resume, fail or abort it
    silent           whoever started it has no lease, and wrote nothing for long
    abort_requested  its workers were asked to stop, and did not in time
    not_finalized    its shards are done: a worker of its kind has to finalize it
    unclaimed        a worker of its kind is missing, or they are all busy
    far_ahead        it is scheduled for a time that is far away

    Piped, the columns are: run, why, kind, project, shards, worker, since, until. A lease that is kept is told
    only when its worker was asked to stop, and goes on past the abort's deadline, or for long where it has none.

    \b
    Examples:
      runfold stuck
      runfold stuck --older-than 1m --ahead 0s
      runfold stuck --jsonl | jq -r 'select(.why == "silent").run_id' | runfold abort - --yes
    """
    from ledger import limits

    with reading_ledger(url) as log:
        rows = output.rows(_stuck_columns(output), _stuck_document)
        found = log.stuck(
            older_than_s=limits.STUCK_S if older_than is None else older_than.total_seconds(),
            ahead_s=limits.FAR_AHEAD_S if ahead is None else ahead.total_seconds(),
        )
        for one in found:
            rows.write([one])
        rows.close()


def _stuck_columns(output: Output) -> "list[Column[StuckTask]]":
    return [
        Column("RUN", lambda one: one.run_id, width=36),
        Column("WHY", lambda one: one.why.value, lambda one: Cell(one.why.value, "yellow"), width=15),
        Column("KIND", lambda one: one.kind, is_cut=True),
        Column("PROJECT", lambda one: one.project, only="piped"),
        Column("SHARDS", _shards, is_cut=True),
        Column("WORKER", lambda one: one.worker, is_cut=True),
        Column("SINCE", lambda one: one.since, lambda one: output.moment(one.since)),
        Column("UNTIL", lambda one: one.until, only="piped"),
        Column("WAITS FOR", _waits_for, only="terminal", is_cut=True),
    ]


def _shards(one: "StuckTask") -> str:
    return ",".join(str(shard) for shard in one.shards)


def _waits_for(one: "StuckTask") -> str:
    from ledger.stuck import Why

    match one.why:
        case Why.LEASE_OVER:
            return "a sweep: any worker, or `runfold sweep`"
        case Why.INTERRUPTED:
            return "somebody to resume, fail or abort it"
        case Why.SILENT:
            return f"{one.worker or 'whoever started it'}; abort it when that is gone"
        case Why.ABORT_REQUESTED:
            return f"{one.worker or 'its workers'} to stop; `runfold abort` does not wait for that"
        case Why.NOT_FINALIZED:
            return f"a worker of kind {one.kind} to finalize it"
        case Why.UNCLAIMED:
            return f"a worker of kind {one.kind}"
        case Why.FAR_AHEAD:
            return "its time"


def _stuck_document(one: "StuckTask") -> "JsonObject":
    from ledger.run.codec import timestamp

    return {
        "run_id": one.run_id,
        "kind": one.kind,
        "project": one.project,
        "why": one.why.value,
        "shards": list(one.shards),
        "worker": one.worker,
        "since": timestamp(one.since),
        "until": None if one.until is None else timestamp(one.until),
        "waits_for": _waits_for(one),
    }


# --- sweep --------------------------------------------------------------------------------------------------


@click.command(cls=JsonCommand, short_help="Settle what dead workers left behind.")
@output_options(lambda: SWEPT_FIELDS)
@url_option
def sweep(*, url: Setting, output: Output) -> None:
    """Settle leases that are over, as their runs' kinds declare, and aborts that are overdue.

    Every worker does so all the time; this is for when none runs. A lease that is kept is left alone, and several
    sweeps at once do no harm. Piped, the columns are: run, shard, the worker that is gone, and the events that were
    appended; none when the work was only offered to others.

    \b
    Examples:
      runfold sweep
      runfold sweep --jsonl
    """
    require_ledger(url)
    rows = output.rows(_swept_columns(), _swept_document, is_live=True)
    with writing_ledger(url) as log:
        while batch := log.sweep():  # each settles what it gives, so this ends
            rows.write(batch)
    rows.close()


def _swept_columns() -> "list[Column[Swept]]":
    def events(one: "Swept") -> str:
        return ",".join(one.events)

    return [
        Column("RUN", lambda one: one.run_id, width=36),
        Column("SHARD", lambda one: one.shard, width=5),
        Column("WORKER", lambda one: one.worker, width=30),
        Column("EVENTS", events, lambda one: events(one) or "offered to others", width=40),
    ]


def _swept_document(one: "Swept") -> "JsonObject":
    return {"run_id": one.run_id, "shard": one.shard, "worker": one.worker, "events": list(one.events)}
