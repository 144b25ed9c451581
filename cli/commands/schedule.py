"""`runfold schedule`: runs that are asked for at set times."""

from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import click

from cli.config import Setting
from cli.errors import NoLedger
from cli.options import (
    LABEL,
    JsonCommand,
    output_options,
    read_json_object,
    reading_ledger,
    url_option,
    writing_ledger,
)
from cli.output import Column, Output

if TYPE_CHECKING:
    from cli.schedules.schedules import Change, Schedule

FIELDS = ("name", "cron", "timezone", "kind", "project", "missed", "is_paused", "next_at", "created_at", "request")
CHANGE_FIELDS = ("name", "change", "changed_at", "actor", "schedule")


@click.group(short_help="Ask for runs at set times.")
def schedule() -> None:
    """Ask for runs at set times, as cron has them. `runfold daemon` enqueues each occurrence, once.

    \b
    Examples:
      runfold schedule add nightly --cron "0 3 * * *" --timezone Europe/Berlin --kind test --project web
      runfold schedule list
      runfold schedule pause nightly
    """


@schedule.command(cls=JsonCommand, short_help="Add a schedule.")
@click.argument("name")
@click.option("--cron", required=True, metavar="EXPRESSION", help="Minute, hour, day of month, month, day of week.")
@click.option("--timezone", default="UTC", show_default=True, metavar="ZONE", help="In which it is meant.")
@click.option("--kind", required=True, help="Of the runs.")
@click.option("--project", help="Of the runs.")
@click.option("--input", "input_text", metavar="JSON", help="What the runs are to know: JSON, @file, or - for stdin.")
@click.option("--label", "labels", multiple=True, type=LABEL, help="Of the runs; repeatable.")
@click.option("--priority", type=int, default=0, help="The higher, the sooner they are claimed.")
@click.option("--shards", "shard_count", type=click.IntRange(1), help="Into how many slices they are cut.")
@click.option("--attempts-max", type=click.IntRange(1), help="How often they may be started.")
@click.option("--callback", "callback_url", metavar="URL", help="Whom the daemon calls when they have ended.")
@click.option("--exclusive-key", metavar="KEY", help="At most one active run holds it, whoever asked for that one.")
@click.option(
    "--on-active",
    type=click.Choice(["reject", "supersede"]),
    default="reject",
    show_default=True,
    help="When an active run holds the exclusive key: pass the occurrence over, or abort that run.",
)
@click.option(
    "--missed",
    type=click.Choice(["latest", "all", "skip"]),
    default="latest",
    show_default=True,
    help="Of the occurrences that no daemon saw, make up for the latest, all or none.",
)
@output_options(lambda: FIELDS)
@url_option
def add(
    *,
    name: str,
    cron: str,
    timezone: str,
    input_text: str | None,
    labels: tuple[tuple[str, str], ...],
    missed: Literal["latest", "all", "skip"],
    url: Setting,
    output: Output,
    **facts: Any,
) -> None:
    """Add the schedule NAME. Its runs have the labels `schedule` and `scheduled_for`.

    Piped, the columns are: name, `active` or `paused`, next at, expression, time zone, kind, project.

    \b
    Example:
      runfold schedule add nightly --cron "0 3 * * *" --timezone Europe/Berlin --kind test --project web
      runfold schedule add sync --cron "*/5 * * * *" --kind sync --exclusive-key sync --missed skip
    """
    given = {} if input_text is None else read_json_object(input_text, option="--input")
    _require_cron()
    from cli.schedules.schedules import Request, new_schedule, open_schedule_table
    from ledger.clock import utc_now

    request = Request(input=given, labels=dict(labels), **facts)
    made = new_schedule(name, cron=cron, timezone=timezone, request=request, missed=missed, now=utc_now())
    with writing_ledger(url) as log:
        if not open_schedule_table(log.store).add(made, actor=_actor()):
            raise click.UsageError(f"there is a schedule {name} already. Remove it first, or take another name.")
    _print(output, [made])


@schedule.command("list", cls=JsonCommand, short_help="List the schedules.")
@output_options(lambda: FIELDS)
@url_option
def list_schedules(*, url: Setting, output: Output) -> None:
    """List all schedules by name.

    Piped, the columns are: name, `active` or `paused`, next at, expression, time zone, kind, project.

    \b
    Example:
      runfold schedule list
    """
    _require_cron()
    from cli.schedules.schedules import open_schedule_table

    with reading_ledger(url) as log:
        found = open_schedule_table(log.store).list()
    _print(output, list(found))


@schedule.command(cls=JsonCommand, short_help="Let a schedule rest.")
@click.argument("name")
@output_options(lambda: FIELDS)
@url_option
def pause(*, name: str, url: Setting, output: Output) -> None:
    """Let the schedule NAME rest. What would have come meanwhile is not made up for.

    \b
    Example:
      runfold schedule pause nightly
    """
    _change(name, "paused", url, output)


@schedule.command(cls=JsonCommand, short_help="Let a schedule go on.")
@click.argument("name")
@output_options(lambda: FIELDS)
@url_option
def resume(*, name: str, url: Setting, output: Output) -> None:
    """Let the schedule NAME go on, with the next occurrence after now.

    \b
    Example:
      runfold schedule resume nightly
    """
    _change(name, "resumed", url, output)


@schedule.command(cls=JsonCommand, short_help="Remove a schedule.")
@click.argument("name")
@output_options(lambda: FIELDS)
@url_option
def remove(*, name: str, url: Setting, output: Output) -> None:
    """Remove the schedule NAME. Its runs stay, and so does what was changed about it.

    \b
    Example:
      runfold schedule remove nightly
    """
    _change(name, "removed", url, output)


@schedule.command(cls=JsonCommand, short_help="Show what was changed about a schedule.")
@click.argument("name")
@click.option("-L", "--limit", type=click.IntRange(1, 1_000), default=50, show_default=True, help="The most changes.")
@output_options(lambda: CHANGE_FIELDS)
@url_option
def history(*, name: str, limit: int, url: Setting, output: Output) -> None:
    """Show what was changed about the schedule NAME, the latest first; a removed one, too.

    Piped, the columns are: changed at, `added`, `paused`, `resumed` or `removed`, actor.

    \b
    Example:
      runfold schedule history nightly
    """
    _require_cron()
    from cli.schedules.schedules import open_schedule_table

    with reading_ledger(url) as log:
        found = open_schedule_table(log.store).changes(name, limit=limit)
    columns: list[Column[Change]] = [
        Column("AT", lambda each: each.changed_at, lambda each: output.moment(each.changed_at)),
        Column("CHANGE", lambda each: each.change),
        Column("ACTOR", lambda each: each.actor),
    ]
    rows = output.rows(columns, lambda each: {field: getattr(each, field) for field in CHANGE_FIELDS})
    rows.write(found)
    rows.close()


def _change(name: str, change: str, url: Setting, output: Output) -> None:
    _require_cron()
    import msgspec

    from cli.schedules.schedules import open_schedule_table
    from cli.schedules.times import next_after
    from ledger.clock import utc_now

    now = utc_now()
    with writing_ledger(url) as log:
        table = open_schedule_table(log.store)
        found = next((each for each in table.list() if each.name == name), None)
        if found is None:
            raise click.UsageError(f"there is no schedule {name}. See `runfold schedule list`.")
        changed = found if change == "removed" else msgspec.structs.replace(found, is_paused=change == "paused")
        if change == "resumed":
            next_at = next_after(now, cron=found.cron, timezone=found.timezone)
            changed = msgspec.structs.replace(changed, next_at=next_at)
        if not table.change(changed, change=change, actor=_actor(), at=now):
            output.tell(f"The schedule {name} was {change} already.")
    _print(output, [changed])


def _actor() -> str | None:
    from cli.config import Settings

    return Settings()["actor"].value


def _require_cron() -> None:
    try:
        import cronsim  # noqa: F401
    except ImportError as exc:
        raise NoLedger(f"schedules need more than is installed ({exc}): pip install 'runfold[daemon]'.") from exc


def _print(output: Output, found: "list[Schedule]") -> None:
    columns: list[Column[Schedule]] = [
        Column("NAME", lambda each: each.name),
        Column("STATUS", lambda each: "paused" if each.is_paused else "active"),
        Column("NEXT", _next_at, lambda each: "" if each.is_paused else output.moment(each.next_at)),
        Column("CRON", lambda each: each.cron),
        Column("TIMEZONE", lambda each: each.timezone),
        Column("KIND", lambda each: each.request.kind),
        Column("PROJECT", lambda each: each.request.project),
    ]
    rows = output.rows(columns, _document)
    rows.write(found)
    rows.close()


def _next_at(schedule: "Schedule") -> datetime | None:
    return None if schedule.is_paused else schedule.next_at


def _document(schedule: "Schedule") -> dict[str, Any]:
    import msgspec

    return {
        "name": schedule.name,
        "cron": schedule.cron,
        "timezone": schedule.timezone,
        "kind": schedule.request.kind,
        "project": schedule.request.project,
        "missed": schedule.missed,
        "is_paused": schedule.is_paused,
        "next_at": _next_at(schedule),
        "created_at": schedule.created_at,
        "request": msgspec.to_builtins(schedule.request),
    }
