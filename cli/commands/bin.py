"""`runfold delete`, `restore` and `purge`: the recycle bin, and the end of a run's data."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from cli.config import Setting, Settings
from cli.options import (
    DURATION,
    MOMENT,
    RUN_ID,
    JsonCommand,
    duration_of,
    output_options,
    reading_ledger,
    require_ledger,
    url_option,
    writing_ledger,
)
from cli.output import Cell, Column, Output, Rows

if TYPE_CHECKING:
    from ledger.api import Ledger, Outcome
    from ledger.run.codec import RecordedRunEvent
    from ledger.run.state import Run, RunState
    from ledger.run.values import JsonObject
    from projections.retention import Policy, Swept

FIELDS = ("run_id", "version", "event_id", "result")
PURGED_FIELDS = (*FIELDS, "status", "kind", "project", "finished_at", "policy", "why")
TERMINAL = ("completed", "failed", "aborted")


# --- delete -------------------------------------------------------------------------------------------------


@click.command(cls=JsonCommand, short_help="Put finished runs into the recycle bin.")
@click.argument("run_ids", metavar="RUN…", nargs=-1, type=RUN_ID)
@click.option("--project", help="All runs of this project; refused while one of them is active.")
@click.option("--reason", help="Why, for people.")
@output_options(lambda: FIELDS)
@url_option
def delete(*, run_ids: tuple[str, ...], project: str | None, reason: str | None, url: Setting, output: Output) -> None:
    """Put finished runs into the recycle bin: lists leave them out, and nothing is lost. An active run is refused.

    A RUN is an id, the first characters of one, @last or @last-failed; - reads them from stdin. Piped, it prints for
    each run: run id, version, event id, and `deleted`, or `unchanged` when it was there already.

    \b
    Examples:
      runfold delete 0199d1a2 --reason "wrong branch"
      runfold delete --project old-web
      runfold list --deleted
    """
    from projections.recycle_bin import RecycleBin

    given = _runs_or_project(run_ids, project)
    require_ledger(url)
    with writing_ledger(url) as log:
        if project is not None:
            _tell(output, RecycleBin(log).delete_project(project, reason=reason), "deleted")
        else:
            _each(log, output, given, lambda run: log.delete(run.run_id, reason=reason), "deleted")


# --- restore ------------------------------------------------------------------------------------------------


@click.command(cls=JsonCommand, short_help="Take runs out of the recycle bin.")
@click.argument("run_ids", metavar="RUN…", nargs=-1, type=RUN_ID)
@click.option("--project", help="Those runs of this project that were deleted since a time; see --since.")
@click.option("--since", type=MOMENT, help="With --project: only those deleted at this time or later.")
@output_options(lambda: FIELDS)
@url_option
def restore(
    *, run_ids: tuple[str, ...], project: str | None, since: datetime | None, url: Setting, output: Output
) -> None:
    """Take runs out of the recycle bin. A purged run does not come back: that is refused.

    A RUN is an id, the first characters of one; - reads them from stdin. Piped, it prints for each run: run id,
    version, event id, and `restored`, or `unchanged` when it was not in the bin.

    \b
    Examples:
      runfold restore 0199d1a2
      runfold restore --project web --since 2h
    """
    from projections.recycle_bin import RecycleBin

    given = _runs_or_project(run_ids, project)
    if (project is None) != (since is None):
        raise click.UsageError("--project and --since belong together: what was deleted before then stays in the bin.")
    require_ledger(url)
    with writing_ledger(url) as log:
        if project is not None and since is not None:
            _tell(output, RecycleBin(log).restore_project(project, deleted_since=since), "restored")
        else:
            _each(log, output, given, lambda run: log.restore(run.run_id), "restored")


def _runs_or_project(run_ids: tuple[str, ...], project: str | None) -> Sequence[str]:
    from cli.run_ids import read_ids

    if bool(run_ids) == (project is not None):
        raise click.UsageError("Name runs, or a project with --project; one of both.")
    return read_ids(run_ids) if run_ids else ()


def _each(
    log: "Ledger", output: Output, given: Sequence[str], act: "Callable[[RunState], Outcome]", result: str
) -> None:
    from cli.commands.runs import each_run
    from cli.settling import outcome_of, settled

    rows = _rows(output)

    def change(run: "RunState") -> None:
        rows.write([_changed(run, settled(log, partial(act, run), found=partial(outcome_of, log)), result)])

    try:
        each_run(log, given, change)
    finally:
        rows.close()


def _changed(run: "RunState", outcome: "Outcome", result: str) -> "JsonObject":
    if outcome.winner is None:
        return {"run_id": run.run_id, "version": run.version, "event_id": None, "result": "unchanged"}
    winner = outcome.winner
    return {"run_id": run.run_id, "version": winner.version, "event_id": winner.event_id, "result": result}


def _tell(output: Output, events: "Sequence[RecordedRunEvent]", result: str) -> None:
    rows = _rows(output)
    rows.write([{"run_id": e.run_id, "version": e.version, "event_id": e.event_id, "result": result} for e in events])
    rows.close()


# --- purge --------------------------------------------------------------------------------------------------


@click.command(cls=JsonCommand, short_help="Erase the data of finished runs for good.")
@click.argument("run_ids", metavar="[RUN…]", nargs=-1, type=RUN_ID)
@click.option("--older-than", type=DURATION, help="Runs that finished longer ago than this: 90d, 12h.")
@click.option("-s", "--status", multiple=True, type=click.Choice(TERMINAL), help="Which ended so; repeatable.")
@click.option("--kind", help="Of this kind.")
@click.option("--project", help="Of this project.")
@click.option(
    "--deleted",
    type=click.Choice(["exclude", "only", "include"]),
    is_flag=False,
    flag_value="only",
    help="In the recycle bin alone, or outside of it alone; both by default.",
)
@click.option(
    "--keep-newest", type=click.IntRange(0), help="Keep this many runs of each project and kind, however old."
)
@click.option("-L", "--limit", type=click.IntRange(1), help="Purge at most this many runs.")
@click.option("--reason", help="Why; it stays in the history, so it names nobody.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be purged, and why.")
@click.option("-y", "--yes", "is_sure", is_flag=True, help="Do not ask.")
@output_options(lambda: PURGED_FIELDS)
@url_option
def purge(
    *,
    run_ids: tuple[str, ...],
    limit: int | None,
    reason: str | None,
    dry_run: bool,
    is_sure: bool,
    url: Setting,
    output: Output,
    **conditions: Any,
) -> None:
    """Erase the data of finished runs for good. What stays: kind, project, status, verdict, times and counts.

    With RUNs, each must be in the recycle bin (`runfold delete`). With --older-than, all finished runs that the
    options name, by when they finished. Without either, what the tables [[retention]] of the settings name. Active
    runs are never purged. A purge that broke off is gone on with. It asks first, unless --yes is given.

    A RUN is an id, the first characters of one; - reads them from stdin. Piped, it prints for each run: run id,
    version, event id, `purged` (`would_purge` in a dry run, `unchanged` when it was purged before), status, kind,
    project, finished at, policy, why.

    \b
    Examples:
      runfold purge --older-than 90d --status completed --kind test --dry-run
      runfold purge --older-than 30d --deleted --yes
      runfold list --deleted --project web | runfold purge - --yes
      runfold purge --yes
    """
    from cli.run_ids import read_ids

    given = {name: value for name, value in conditions.items() if value not in (None, ())}
    if run_ids and (given or limit):
        raise click.UsageError("name runs, or say which with options; one of both.")
    named = read_ids(run_ids) if run_ids else ()
    policies = [] if run_ids else _policies(given)
    require_ledger(url)
    if not (dry_run or is_sure):
        _ask(f"{len(named)} run(s)" if named else ", ".join(p.name for p in policies), from_stdin="-" in run_ids)
    with (reading_ledger if dry_run else writing_ledger)(url) as log:
        if named:
            _purge_named(log, output, named, reason=reason, dry_run=dry_run)
        else:
            _sweep(log, output, policies, reason=reason, dry_run=dry_run, limit=limit)


def _ask(what: str, *, from_stdin: bool) -> None:
    if from_stdin or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError("nothing brings back what is purged. Say --yes if it is meant, or look with --dry-run.")
    if not click.confirm(f"Erase for good: {what}?", err=True):
        click.echo("Nothing was purged.", err=True)
        raise click.Abort


def _policies(given: "Mapping[str, Any]") -> "list[Policy]":
    """Take the policy of the options, or those of the settings."""
    from projections.retention import policy

    if given:
        if "older_than" not in given:
            raise click.UsageError("--older-than says how long ago the runs finished; 0s is any time. Give it as well.")
        return [policy("options", **given)]
    path, tables = Settings().retention()
    if path is None:
        raise click.UsageError(
            "nothing says what to purge: name runs, give --older-than, or put a table [[retention]] into runfold.toml."
        )
    return [_policy_of(table, number, origin=str(path)) for number, table in enumerate(tables, 1)]


def _policy_of(table: "Mapping[str, Any]", number: int, *, origin: str) -> "Policy":
    """Read one table of the settings.

    Raises:
        click.UsageError: when it says what a policy does not know, or does not say how old runs are.
    """
    from ledger.errors import InvalidInput
    from projections.retention import policy

    where = f"{origin}, table {number} of [[retention]]"
    known = ("name", "older_than", "kind", "project", "status", "keep_newest", "deleted")
    for name in table:
        if name not in known:
            raise click.UsageError(f"{where} has {name!r}, which is none of: {', '.join(known)}.")
    length = table.get("older_than")
    older_than = duration_of(length) if isinstance(length, str) else None
    if older_than is None:
        raise click.UsageError(f'{where} has older_than {length!r}; a duration is needed, such as older_than = "90d".')
    try:
        return policy(**{"name": f"retention {number}", **table, "older_than": older_than})
    except InvalidInput as exc:
        raise click.UsageError(f"{where}: {exc.field} {exc.why}") from exc


def _purge_named(log: "Ledger", output: Output, given: Sequence[str], *, reason: str | None, dry_run: bool) -> None:
    from cli.commands.runs import each_run
    from projections.retention import forget

    rows = _purged_rows(output)
    try:
        each_run(log, given, lambda run: rows.write([_purged(log, run, reason=reason, dry_run=dry_run)]))
    finally:
        rows.close()
        if not dry_run:
            forget(log)


def _purged(log: "Ledger", run: "RunState", *, reason: str | None, dry_run: bool) -> "JsonObject":
    from cli.settling import outcome_of, settled
    from ledger.run.commands import require_purgeable

    if dry_run:
        require_purgeable(run, from_bin=True)
        return _row(run, "unchanged" if run.purged_at is not None else "would_purge", why="it was named")
    outcome = settled(log, lambda: log.purge(run.run_id, reason=reason), found=partial(outcome_of, log))
    return _row(run, "purged", why="it was named", event=_changed(run, outcome, "purged"))


def _sweep(
    log: "Ledger",
    output: Output,
    policies: "Sequence[Policy]",
    *,
    reason: str | None,
    dry_run: bool,
    limit: int | None,
) -> None:
    from projections.retention import sweep

    rows = _purged_rows(output)
    try:
        for swept in sweep(log, policies, dry_run=dry_run, runs_max=limit, reason=reason):
            rows.write([_swept_row(swept, dry_run=dry_run)])
    finally:
        rows.close()
    output.tell(f"{'Would purge' if dry_run else 'Purged'} {rows.count:,} run(s).")


def _swept_row(swept: "Swept", *, dry_run: bool) -> "JsonObject":
    event = None if swept.event is None else {"version": swept.event.version, "event_id": swept.event.event_id}
    result = "would_purge" if dry_run else "unchanged" if event is None else "purged"
    return _row(swept.run, result, why=swept.why, policy=swept.policy, event=event)


def _row(
    run: "Run", result: str, *, why: str, policy: str | None = None, event: "Mapping[str, Any] | None" = None
) -> "JsonObject":
    return {
        "run_id": run.run_id,
        "version": run.version,
        "event_id": None,
        "result": result,
        **(event or {}),
        "status": run.status,
        "kind": run.kind,
        "project": run.project,
        "finished_at": run.finished_at,
        "policy": policy,
        "why": why,
    }


# --- what was done ------------------------------------------------------------------------------------------


def _columns() -> "Iterator[Column[JsonObject]]":
    yield Column("RUN", lambda row: row["run_id"], width=36)
    yield Column("VERSION", lambda row: row["version"], width=7)
    yield Column("EVENT", lambda row: row["event_id"], width=36, only="piped")
    yield Column("RESULT", lambda row: row["result"], lambda row: row["result"].replace("_", " "), width=11)


def _rows(output: Output) -> "Rows[JsonObject]":
    return output.rows([*_columns()], dict, is_live=True)


def _purged_rows(output: Output) -> "Rows[JsonObject]":
    from cli.documents import purged_document

    return output.rows(
        [
            *_columns(),
            Column("STATUS", lambda row: row["status"], lambda row: output.word(row["status"]), width=13),
            Column("KIND", lambda row: row["kind"], width=10, is_cut=True),
            Column("PROJECT", lambda row: row["project"], width=10, is_cut=True),
            Column("FINISHED", lambda row: row["finished_at"], lambda row: output.moment(row["finished_at"]), width=10),
            Column("POLICY", lambda row: row["policy"], width=12, is_cut=True),
            Column("WHY", lambda row: row["why"], lambda row: Cell(row["why"], "dim"), width=80, is_cut=True),
        ],
        purged_document,
        is_live=True,
    )
