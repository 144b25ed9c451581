"""`runfold consumer`: the named readers of the log, and how far each has come."""

from typing import TYPE_CHECKING, Final

import click

from cli.config import Setting
from cli.options import JsonCommand, output_options, reading_ledger, require_ledger, url_option, writing_ledger
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
    """Look after the named readers of the log, whose place the ledger keeps. Programs make them: `Ledger.consumer`, or
    POST /v1/consumers.

    \b
    Examples:
      runfold consumer list
      runfold consumer reset billing --after 0
    """


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
