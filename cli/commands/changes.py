"""`runfold enqueue`, `retry` and `abort`: what changes runs. Each tells run, version and the event that did it."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import click

from cli.config import Setting
from cli.errors import RunUnsuccessful
from cli.options import (
    DURATION,
    LABEL,
    MOMENT,
    RUN_ID,
    JsonCommand,
    output_options,
    read_json_object,
    reading_ledger,
    require_ledger,
    url_option,
    writing_ledger,
)
from cli.output import Column, Output, Rows

if TYPE_CHECKING:
    from ledger.api import Ledger
    from ledger.run.codec import RecordedRunEvent
    from ledger.run.state import Run
    from ledger.run.values import JsonObject


def _written_fields() -> Sequence[str]:
    from cli.documents import WRITTEN_FIELDS

    return WRITTEN_FIELDS


# --- enqueue ------------------------------------------------------------------------------------------------


@click.command(cls=JsonCommand, short_help="Ask for a run.")
@click.argument("kind")
@click.option("--project", help="Whose run it is; keys are apart between projects.")
@click.option("--input", "input_text", metavar="JSON", help="What the run is to know: JSON, @file, or - for stdin.")
@click.option("--idempotency-key", metavar="KEY", help="The same key with the same facts gives the same run.")
@click.option("--exclusive-key", metavar="KEY", help="At most one active run holds it, such as branch@repository.")
@click.option(
    "--on-active",
    type=click.Choice(["reject", "return", "supersede"]),
    default="reject",
    show_default=True,
    help="When an active run holds the exclusive key: refuse, give that run, or abort it.",
)
@click.option("--delay", type=DURATION, help="Not to start before this long from now: 5m, 1h30m.")
@click.option("--not-before", type=MOMENT, help="Not to start before this time.")
@click.option("--priority", type=int, default=0, help="The higher, the sooner it is claimed.")
@click.option("--label", "labels", multiple=True, type=LABEL, help="Find the run by it; repeatable.")
@click.option("--shards", "shard_count", type=click.IntRange(1), help="Into how many slices it is cut.")
@click.option("--tests", "tests_path", metavar="FILE", help="Plan these tests: a file with an id on each line, or -.")
@click.option("--balance", "is_balanced", is_flag=True, help="With --tests: let shards take equally long.")
@click.option("--total", type=click.IntRange(0), help="How many results to expect.")
@click.option("--attempts-max", type=click.IntRange(1), help="How often it may be started.")
@click.option("--callback", "callback_url", metavar="URL", help="Whom `runfold daemon` calls when the run has ended.")
@click.option("--wait", "waits", is_flag=True, help="Wait until it ends; exit with 1 unless it succeeded.")
@click.option("--timeout", type=DURATION, help="With --wait: stop waiting after this long, and exit with 124.")
@output_options(_written_fields)
@url_option
def enqueue(
    *,
    kind: str,
    url: Setting,
    output: Output,
    input_text: str | None,
    labels: tuple[tuple[str, str], ...],
    delay: timedelta | None,
    not_before: datetime | None,
    waits: bool,
    timeout: timedelta | None,
    tests_path: str | None,
    is_balanced: bool,
    **facts: Any,
) -> None:
    """Ask for a run of KIND.

    --tests fixes which tests each shard runs: equally many, in their order; with --balance, so many that the shards
    take equally long, by what their last runs of this kind and project took. Without --total, as many results are
    expected.

    Piped, it prints: run id, version, event id, and `enqueued`, or `existing` when a key led to a run that was there
    already; the event is the one that enqueued it.

    \b
    Examples:
      runfold enqueue test --project web --shards 4 --label branch=main
      runfold enqueue deploy --input '{"to": "staging"}' --idempotency-key build-17
      runfold enqueue deploy --exclusive-key web@main --on-active supersede --delay 5m
      runfold enqueue test --input @plan.json --wait --timeout 30m
      pytest --collect-only -q | grep :: | runfold enqueue test --tests - --shards 4 --balance
    """
    if delay is not None and not_before is not None:
        raise click.UsageError("--delay and --not-before both say when it may start. Give one of them.")
    if timeout is not None and not waits:
        raise click.UsageError("--timeout says how long to wait, and nobody waits. Give --wait as well.")
    if is_balanced and tests_path is None:
        raise click.UsageError("--balance deals out tests, and none are given. Give --tests as well.")
    if tests_path == "-" and input_text == "-":
        raise click.UsageError("--tests and --input both read stdin. Give one of them as a file.")
    given = None if input_text is None else read_json_object(input_text, option="--input")
    from cli.planning import planned, read_test_ids
    from cli.settling import settled
    from cli.telemetry.asked import asking, telemetry
    from ledger.api import RunHandle

    test_ids = [] if tests_path is None else read_test_ids(tests_path)
    facts |= {
        "input": given,
        "labels": dict(labels),
        "not_before": datetime.now(UTC) + delay if delay is not None else not_before,
    }
    with telemetry() as found, writing_ledger(url) as log:
        if test_ids:
            facts["total"] = len(test_ids) if facts["total"] is None else facts["total"]
            facts["plan"] = planned(
                log,
                test_ids,
                shard_count=facts["shard_count"] or 1,
                kind=kind,
                project=facts["project"],
                idempotency_key=facts["idempotency_key"],
                is_balanced=is_balanced,
            )
        with asking(found, log, kind, project=facts["project"]) as asker:
            run = settled(log, lambda: asker.enqueue(kind, **facts), found=lambda done: RunHandle(done.run_id))
        rows = _written_rows(output)
        rows.write([written(next(log.read(run.id, up_to=1)), "enqueued" if run.is_new else "existing")])
        rows.close()
        output.flush()
        if waits:
            _wait(log, run.id, timeout)


# --- retry --------------------------------------------------------------------------------------------------


@click.command(cls=JsonCommand, short_help="Repeat a finished run, or one shard of it, as a new run.")
@click.argument("run_id", metavar="RUN", type=RUN_ID)
@click.option("--shard", type=click.IntRange(0), help="Only the tests of this shard, from 0.")
@click.option("--idempotency-key", metavar="KEY", help="The same key gives the same new run.")
@click.option(
    "--on-active",
    type=click.Choice(["reject", "return", "supersede"]),
    default="reject",
    show_default=True,
    help="When an active run holds the run's exclusive key: refuse, give that run, or abort it.",
)
@output_options(_written_fields)
@url_option
def retry(*, run_id: str, url: Setting, output: Output, **facts: Any) -> None:
    """Repeat a finished run, or one shard of it, as a new run that waits for a worker of its kind.

    The new run was asked for what the old one was, and names it as `retry_of`; the old one stays as it is. A shard is
    repeated as a run that is not cut: its planned tests, else those that it has results of. RUN is an id, the first
    characters of one, @last or @last-failed. Piped, it prints as `enqueue` does.

    \b
    Examples:
      runfold retry @last-failed
      runfold retry 0199d1a2 --shard 3
    """
    from cli.run_ids import resolve
    from cli.settling import settled
    from cli.telemetry.asked import asking, telemetry
    from ledger.api import RunHandle
    from projections.reader import Runs

    require_ledger(url)
    with telemetry() as found, writing_ledger(url) as log:
        meant = resolve(Runs(log), run_id)
        with asking(found, log, "retry") as asker:
            run = settled(log, lambda: asker.retry(meant, **facts), found=lambda done: RunHandle(done.run_id))
        rows = _written_rows(output)
        rows.write([written(next(log.read(run.id, up_to=1)), "enqueued" if run.is_new else "existing")])
    rows.close()


def _wait(log: "Ledger", run_id: str, timeout: timedelta | None) -> None:
    from cli.watching import unsuccessful, wait_until_ended

    (state,) = wait_until_ended(
        log, [log.state(run_id)], timeout_s=None if timeout is None else timeout.total_seconds()
    )
    reason = unsuccessful(state)
    if reason is not None:
        raise RunUnsuccessful(reason)


# --- abort --------------------------------------------------------------------------------------------------


@click.command(cls=JsonCommand, short_help="End runs on purpose.")
@click.argument("run_ids", metavar="RUN…", nargs=-1, required=True, type=RUN_ID)
@click.option("--reason", help="Why, for people.")
@click.option("-y", "--yes", "is_sure", is_flag=True, help="Do not ask; needed for several runs.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be aborted.")
@output_options(_written_fields)
@url_option
def abort(
    *, run_ids: tuple[str, ...], reason: str | None, is_sure: bool, dry_run: bool, url: Setting, output: Output
) -> None:
    """End runs on purpose. A run that has ended stays as it is: that is refused, and told who ended it.

    A RUN is an id, the first characters of one, @last or @last-failed; - reads them from stdin. Several runs need
    --yes, or a yes on the terminal. Piped, it prints for each run: run id, version, event id, and `aborted`.

    \b
    Examples:
      runfold abort 0199d1a2 --reason "wrong branch"
      runfold list -s queued --kind nightly | runfold abort - --yes
      runfold abort @last --dry-run
    """
    from cli.commands.runs import each_run
    from cli.run_ids import read_ids

    given = read_ids(run_ids)
    require_ledger(url)
    if len(given) > 1 and not (is_sure or dry_run):
        _ask(len(given), from_stdin="-" in run_ids)
    rows = _written_rows(output)
    with (reading_ledger if dry_run else writing_ledger)(url) as log:
        try:
            each_run(log, given, lambda run: rows.write([_aborted(log, run, reason=reason, dry_run=dry_run)]))
        finally:
            rows.close()


def _ask(count: int, *, from_stdin: bool) -> None:
    if from_stdin or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError(f"{count} runs would be aborted. Say --yes if they are meant, or look with --dry-run.")
    if not click.confirm(f"Abort {count} runs?", err=True):
        click.echo("Nothing was aborted.", err=True)
        raise click.Abort


def _aborted(log: "Ledger", run: "Run", *, reason: str | None, dry_run: bool) -> "JsonObject":
    """Abort one run.

    Raises:
        RunClosed: when it has ended, however that was.
    """
    from cli.settling import outcome_of, settled
    from ledger.errors import RunClosed

    if run.is_terminal:
        winner = next(log.read(run.run_id, after_version=run.closed_version - 1))
        raise RunClosed(run_id=run.run_id, closed_version=run.closed_version, winner=winner)
    if dry_run:
        return {"run_id": run.run_id, "version": run.version, "event_id": None, "result": "would_abort"}
    outcome = settled(log, lambda: log.abort(run.run_id, reason=reason), found=partial(outcome_of, log))
    if not outcome.won and outcome.winner is not None:  # it ended between our look and our word
        raise RunClosed(run_id=run.run_id, closed_version=outcome.winner.version, winner=outcome.winner)
    winner = outcome.winner or next(log.read(run.run_id, after_version=log.state(run.run_id).closed_version - 1))
    return written(winner, "aborted")


# --- what was written ---------------------------------------------------------------------------------------


def written(event: "RecordedRunEvent", result: Literal["enqueued", "existing", "aborted"]) -> "JsonObject":
    """Give what a command tells of the event that it wrote, or that was there."""
    return {"run_id": event.run_id, "version": event.version, "event_id": event.event_id, "result": result}


def _written_rows(output: Output) -> "Rows[JsonObject]":
    return output.rows(
        [
            Column("RUN", lambda row: row["run_id"], width=36),
            Column("VERSION", lambda row: row["version"], width=7),
            Column("EVENT", lambda row: row["event_id"], width=36),
            Column("RESULT", lambda row: row["result"], lambda row: row["result"].replace("_", " "), width=11),
        ],
        dict,
        is_live=True,
    )
