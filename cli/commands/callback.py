"""`runfold callback`: whom to call when runs end, and what became of the calls."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from cli.config import Setting
from cli.options import JsonCommand, output_options, reading_ledger, url_option, writing_ledger
from cli.output import Column, Output

if TYPE_CHECKING:
    from cli.outbox.deliveries import Callback, Delivery

FIELDS = ("callback_id", "url", "project", "kind", "created_at")
DELIVERY_FIELDS = ("event_id", "sink", "run_id", "url", "state", "attempts", "due_at", "last_error")
RETRIED_MAX = 10_000


@click.group(short_help="Say whom to call when runs end.")
def callback() -> None:
    """Say whom `runfold daemon` calls when runs end, and see what became of the calls.

    \b
    Examples:
      runfold callback add https://ci.example/hooks/runs --project web
      runfold callback deliveries --state failed
      runfold callback retry --all
    """


@callback.command(cls=JsonCommand, short_help="Call a URL when runs end.")
@click.argument("target", metavar="CALLBACK_URL")
@click.option("--project", help="Only runs of this project.  [default: all]")
@click.option("--kind", help="Only runs of this kind.  [default: all]")
@output_options(lambda: (*FIELDS, "secret"))
@url_option
def add(*, target: str, project: str | None, kind: str | None, url: Setting, output: Output) -> None:
    """Call CALLBACK_URL whenever a run ends from now on, however it ends.

    Calls are signed with the secret that is printed, as Standard Webhooks says. Piped, the columns are: secret,
    callback id.

    \b
    Example:
      runfold callback add https://ci.example/hooks/runs --project web --kind test
    """
    from cli.outbox.deliveries import new_callback, open_outbox_table
    from ledger.clock import utc_now

    made = new_callback(target, project=project, kind=kind, now=utc_now())
    with writing_ledger(url) as log:
        open_outbox_table(log.store).add_callback(made)
    columns: list[Column[Callback]] = [
        Column("SECRET", lambda each: each.secret),
        Column("ID", lambda each: each.callback_id),
    ]
    rows = output.rows(columns, lambda each: {**_document(each), "secret": each.secret})
    rows.write([made])
    rows.close()


@callback.command("list", cls=JsonCommand, short_help="List whom to call.")
@output_options(lambda: FIELDS)
@url_option
def list_callbacks(*, url: Setting, output: Output) -> None:
    """List whom to call, oldest first, without the secrets.

    Piped, the columns are: callback id, URL, project, kind, created at.

    \b
    Example:
      runfold callback list
    """
    from cli.outbox.deliveries import open_outbox_table

    with reading_ledger(url) as log:
        found = open_outbox_table(log.store).callbacks()
    columns: list[Column[Callback]] = [
        Column("ID", lambda each: each.callback_id),
        Column("URL", lambda each: each.url, is_cut=True),
        Column("PROJECT", lambda each: each.project),
        Column("KIND", lambda each: each.kind),
        Column("CREATED", lambda each: each.created_at, lambda each: output.moment(each.created_at)),
    ]
    rows = output.rows(columns, _document)
    rows.write(found)
    rows.close()


@callback.command(cls=JsonCommand, short_help="Call no more.")
@click.argument("callback_id", metavar="CALLBACK")
@output_options(lambda: ("callback_id",))
@url_option
def remove(*, callback_id: str, url: Setting, output: Output) -> None:
    """Forget whom to call, and the calls that wait for it.

    Piped, it prints: callback id, `removed`.

    \b
    Example:
      runfold callback remove cb_0123456789abcdef
    """
    from cli.outbox.deliveries import open_outbox_table

    with writing_ledger(url) as log:
        if not open_outbox_table(log.store).remove_callback(callback_id):
            raise click.UsageError(f"there is no callback {callback_id}. See `runfold callback list`.")
    columns: list[Column[None]] = [Column("ID", lambda _: callback_id), Column("STATUS", lambda _: "removed")]
    rows = output.rows(columns, lambda _: {"callback_id": callback_id})
    rows.write([None])
    rows.close()


@callback.command(cls=JsonCommand, short_help="Show what signs the callbacks that runs bring.")
@output_options(lambda: ("secret",))
@url_option
def secret(*, url: Setting, output: Output) -> None:
    """Show the secret that signs the calls to URLs that runs were enqueued with; it is made when first asked for.

    \b
    Example:
      runfold callback secret
    """
    from cli.outbox.deliveries import open_outbox_table

    with writing_ledger(url) as log:
        found = open_outbox_table(log.store).run_secret()
    columns: list[Column[None]] = [Column("SECRET", lambda _: found)]
    rows = output.rows(columns, lambda _: {"secret": found})
    rows.write([None])
    rows.close()


@callback.command(cls=JsonCommand, short_help="List calls, newest first.")
@click.option("--state", type=click.Choice(["pending", "delivered", "failed"]), help="Only these.")
@click.option("-L", "--limit", type=click.IntRange(1, 1_000), default=50, show_default=True, help="The most calls.")
@output_options(lambda: DELIVERY_FIELDS)
@url_option
def deliveries(*, state: str | None, limit: int, url: Setting, output: Output) -> None:
    """List calls, newest first. One that succeeded is kept for a week.

    Piped, the columns are: event id (the `webhook-id`), callback id or `run`, run id, state, attempts, when it is due
    or was settled, URL, last error.

    \b
    Example:
      runfold callback deliveries --state failed
    """
    from cli.outbox.deliveries import open_outbox_table

    with reading_ledger(url) as log:
        found = open_outbox_table(log.store).list(state=state, limit=limit)
    columns: list[Column[Delivery]] = [
        Column("EVENT", lambda each: each.event_id),
        Column("CALLBACK", lambda each: each.sink),
        Column("RUN", lambda each: each.run_id),
        Column("STATE", lambda each: each.state),
        Column("ATTEMPTS", lambda each: each.attempts),
        Column("DUE", _due_at, lambda each: output.moment(_due_at(each))),
        Column("URL", lambda each: each.url, is_cut=True),
        Column("ERROR", lambda each: each.last_error, is_cut=True),
    ]
    rows = output.rows(columns, _delivery_document)
    rows.write(found)
    rows.close()


@callback.command(cls=JsonCommand, short_help="Try failed calls anew.")
@click.argument("event_id", metavar="[EVENT]", required=False)
@click.option("--all", "wants_all", is_flag=True, help="All that failed.")
@output_options(lambda: ("retried",))
@url_option
def retry(*, event_id: str | None, wants_all: bool, url: Setting, output: Output) -> None:
    """Let calls that failed be tried anew: those of one event, or all. Piped, it prints how many.

    \b
    Examples:
      runfold callback retry 0192f3a0-0000-7000-9000-000000000001
      runfold callback retry --all
    """
    from cli.outbox.deliveries import open_outbox_table

    if (event_id is None) is not wants_all:
        raise click.UsageError("name the event of one call, or give --all.")
    with writing_ledger(url) as log:
        count = open_outbox_table(log.store).retry(event_id=event_id, limit=RETRIED_MAX)
    columns: list[Column[None]] = [Column("RETRIED", lambda _: count)]
    rows = output.rows(columns, lambda _: {"retried": count})
    rows.write([None])
    rows.close()


def _document(callback: "Callback") -> dict[str, Any]:
    return {
        "callback_id": callback.callback_id,
        "url": callback.url,
        "project": callback.project,
        "kind": callback.kind,
        "created_at": callback.created_at,
    }


def _due_at(delivery: "Delivery") -> datetime:
    return datetime.fromtimestamp(delivery.due_at, UTC)


def _delivery_document(delivery: "Delivery") -> dict[str, Any]:
    return {
        "event_id": delivery.event_id,
        "sink": delivery.sink,
        "run_id": delivery.run_id,
        "url": delivery.url,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "due_at": _due_at(delivery),
        "last_error": delivery.last_error,
    }
