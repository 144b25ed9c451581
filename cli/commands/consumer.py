"""`runfold consumer`: the named readers of the log, and how far each has come."""

import os
import signal
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import click

from cli.commands.exec import absolute_url
from cli.config import Setting
from cli.options import (
    DURATION,
    LABEL,
    JsonCommand,
    output_options,
    reading_ledger,
    require_ledger,
    url_option,
    writing_ledger,
)
from cli.output import Column, Output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.consumer import ConsumerStatus
    from ledger.consumers import Place


def _fields() -> "Sequence[str]":
    from cli.documents import CONSUMER_FIELDS

    return CONSUMER_FIELDS


PLACE_FIELDS: Final = ("partition", "position", "token", "lent_up_to", "left_s")


@click.group(short_help="Look after the named readers of the log.")
def consumer() -> None:
    """Look after the named readers of the log, whose place the ledger keeps. `run` makes them, and programs do:
    `Ledger.consumer`, or POST /v1/consumers.

    \b
    Examples:
      runfold consumer run check-runs --type completed --type failed --type aborted -- ./check-run.sh
      runfold consumer list
      runfold consumer reset billing --after 0
    """


@consumer.command(
    short_help="Execute a command for each event.",
    epilog="SIGTERM or Ctrl-C: the command is ended within --grace, and its event given back. The exit code is 0 then.",
)
@click.argument("name", metavar="CONSUMER")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
@click.option("--type", "types", multiple=True, help="Only events of this type; repeatable.")
@click.option("--project", "projects", multiple=True, help="Only runs of this project; repeatable.")
@click.option("--kind", help="Only runs of this kind.")
@click.option("--label", "labels", multiple=True, type=LABEL, metavar="NAME=VALUE", help="Only runs with this label.")
@click.option("--partitions", type=click.IntRange(1, 64), default=1, show_default=True, help="How many may share it.")
@click.option("--now", "from_now", is_flag=True, help="A new consumer begins with what comes, not with the whole log.")
@click.option("--attempts-max", type=click.IntRange(1), help="Then an event is passed over.  [default: try for ever]")
@click.option(
    "--lease", type=DURATION, default=timedelta(seconds=60), help="Others take over after this.  [default: 60s]"
)
@click.option(
    "--grace", type=DURATION, default=timedelta(seconds=5), help="Between SIGTERM and SIGKILL.  [default: 5s]"
)
@click.option("--until-end", is_flag=True, help="End when nothing is left.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="On stderr.")
@url_option
def run(
    *,
    name: str,
    command: tuple[str, ...],
    types: tuple[str, ...],
    projects: tuple[str, ...],
    kind: str | None,
    labels: tuple[tuple[str, str], ...],
    partitions: int,
    from_now: bool,
    attempts_max: int | None,
    lease: timedelta,
    grace: timedelta,
    until_end: bool,
    log_format: str,
    url: Setting,
) -> None:
    """Execute COMMAND for each event, one after the other: a notification, a check run, whatever is to be done once.

    COMMAND gets the event as a CloudEvent on its input, and RUNFOLD_EVENT_ID, RUNFOLD_EVENT_TYPE, RUNFOLD_RUN_ID and
    RUNFOLD_URL. When it ends with 0, the event is done; otherwise it is tried again, later and later, and what follows
    waits. Whoever is killed meanwhile, no event is left out, and one that comes again has the same id. As many may run
    at once as there are partitions, anywhere.

    \b
    Examples:
      runfold consumer run check-runs --type completed --type failed --type aborted -- ./check-run.sh
      runfold consumer run audit --until-end -- tee -a audit.jsonl
    """
    from cli.acting import Acting, environment
    from cli.execution.command_check import require_command
    from cli.worker_logs import log_to_stderr

    require_command(command[0], os.environ)
    log_to_stderr(sys.stderr, form=log_format)
    with writing_ledger(url) as log:
        found = log.consumer(
            name,
            types=types,
            kind=kind,
            projects=projects or None,
            labels=dict(labels),
            partitions=partitions,
            after=None if from_now else 0,
        )
        acting = Acting(
            log,
            found,
            command,
            environ=environment(absolute_url(url.value)),
            lease_s=lease.total_seconds(),
            grace_s=grace.total_seconds(),
            attempts_max=attempts_max,
        )
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda _number, _frame: acting.stop())
        acting.run(until_end=until_end)


@consumer.command("list", cls=JsonCommand, short_help="List consumers, and how far each has come.")
@output_options(_fields)
@url_option
def list_consumers(*, url: Setting, output: Output) -> None:
    """List consumers, and how far each is behind the log. So many events at most: positions may have holes.

    Piped, the columns are: name, checkpoint, head, events behind at most, behind since, batches that are lent,
    partitions.

    \b
    Example:
      runfold consumer list --json name,events_behind_max
    """
    from cli.documents import consumer_document

    with reading_ledger(url) as log:
        found = [each.status() for each in log.consumers()]
    columns: list[Column[ConsumerStatus]] = [
        Column("NAME", lambda each: each.settings.name),
        Column("CHECKPOINT", lambda each: each.position),
        Column("HEAD", lambda each: each.head),
        Column("BEHIND", lambda each: each.events_behind_max),
        Column(
            "SINCE",
            lambda each: each.behind_since,
            lambda each: "" if each.behind_since is None else output.moment(each.behind_since),
        ),
        Column("LENT", lambda each: each.lent),
        Column("PARTITIONS", lambda each: each.settings.partitions),
    ]
    rows = output.rows(columns, consumer_document)
    rows.write(found)
    rows.close()


@consumer.command(cls=JsonCommand, short_help="Show where each partition of a consumer stands.")
@click.argument("name", metavar="CONSUMER")
@output_options(lambda: PLACE_FIELDS)
@url_option
def show(*, name: str, url: Setting, output: Output) -> None:
    """Show where each partition of a consumer stands, and how long its batch is lent for.

    Piped, the columns are: partition, checkpoint, token of the latest loan, where the lent batch ends, seconds left.

    \b
    Example:
      runfold consumer show billing
    """
    with reading_ledger(url) as log:
        places = log.find_consumer(name).places()
    columns: list[Column[Place]] = [
        Column("PARTITION", lambda each: each.partition),
        Column("CHECKPOINT", lambda each: each.position),
        Column("TOKEN", lambda each: each.token),
        Column("LENT UP TO", lambda each: each.lent_up_to),
        Column(
            "LEFT",
            lambda each: None if each.left_s is None else round(each.left_s, 3),
            lambda each: "" if each.left_s is None else f"{each.left_s:.0f} s",
        ),
    ]
    rows = output.rows(columns, lambda each: each._asdict())
    rows.write(places)
    rows.close()


@consumer.command(cls=JsonCommand, short_help="Let a consumer go on after another position.")
@click.argument("name", metavar="CONSUMER")
@click.option("--after", type=click.IntRange(0), help="A position; 0 is the whole log again.")
@click.option("--now", "from_now", is_flag=True, help="Only what comes from now on.")
@output_options(lambda: ("name", "position"))
@url_option
def reset(*, name: str, after: int | None, from_now: bool, url: Setting, output: Output) -> None:
    """Let all partitions of a consumer go on after another position. Batches that are out are lost to their readers.

    Piped, it prints: name, position.

    \b
    Examples:
      runfold consumer reset billing --after 0
      runfold consumer reset billing --now
    """
    if (after is None) is not from_now:
        raise click.UsageError("say where it is to go on: --after POSITION, or --now.")
    require_ledger(url)
    with writing_ledger(url) as log:
        found = log.find_consumer(name)
        found.reset(after=after)
        position = min(place.position for place in found.places())
    columns: list[Column[None]] = [Column("NAME", lambda _: name), Column("POSITION", lambda _: position)]
    rows = output.rows(columns, lambda _: {"name": name, "position": position})
    rows.write([None])
    rows.close()


@consumer.command(cls=JsonCommand, short_help="Forget a consumer.")
@click.argument("name", metavar="CONSUMER")
@output_options(lambda: ("name",))
@url_option
def remove(*, name: str, url: Setting, output: Output) -> None:
    """Forget a consumer and its checkpoint. Piped, it prints: name, `removed`.

    \b
    Example:
      runfold consumer remove billing
    """
    require_ledger(url)
    with writing_ledger(url) as log:
        log.find_consumer(name).remove()
    columns: list[Column[None]] = [Column("NAME", lambda _: name), Column("STATUS", lambda _: "removed")]
    rows = output.rows(columns, lambda _: {"name": name})
    rows.write([None])
    rows.close()
