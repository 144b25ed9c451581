"""`runfold projection`: the tables that lists read, which can be thrown away and made anew from the log."""

import sys
from typing import TYPE_CHECKING, Any

import click

from cli.config import Setting
from cli.errors import NotVerified
from cli.options import JsonCommand, output_options, reading_ledger, url_option
from cli.output import Cell, Column, Output, printable

if TYPE_CHECKING:
    from projections.projection import Lag, Verification

LAG_FIELDS = ("name", "checkpoint", "head", "events_behind", "behind_since")
REBUILD_FIELDS = ("name", "generation", "position")
VERIFY_FIELDS = ("name", "is_equal", "checked", "missing", "extra", "differing", "miscounted")

_NAMED_MAX = 5


@click.group(short_help="Look after the tables that lists read.")
def projection() -> None:
    """Look after the tables that lists read. They are folded from the log, and can be made anew from it at any time.

    \b
    Examples:
      runfold projection list
      runfold projection verify && echo equal
    """


def _name_argument(command: Any) -> Any:
    return click.argument("name", default="runs")(command)


@projection.command("list", cls=JsonCommand, short_help="List the projections, and how far behind each is.")
@output_options(lambda: LAG_FIELDS)
@url_option
def list_projections(*, url: Setting, output: Output) -> None:
    """List the projections, and how far behind the log each is.

    Piped, the columns are: name, checkpoint, head, events behind, behind since.

    \b
    Example:
      runfold projection list
    """
    from projections.projector import PROJECTIONS

    _print_lags(url, output, PROJECTIONS)


@projection.command(cls=JsonCommand, short_help="Tell how far a projection is behind the log.")
@_name_argument
@output_options(lambda: LAG_FIELDS)
@url_option
def lag(*, name: str, url: Setting, output: Output) -> None:
    """Tell how far a projection (default: runs) is behind the log. No reader sees it: a read catches up first.

    Piped, the columns are: name, checkpoint, head, events behind, behind since.

    \b
    Example:
      runfold projection lag runs --json events_behind
    """
    _print_lags(url, output, [name])


def _print_lags(url: Setting, output: Output, names: "Any") -> None:
    from projections.projector import lag

    with reading_ledger(url) as log:
        lags = [lag(log, name) for name in names]
    columns: list[Column[Lag]] = [
        Column("PROJECTION", lambda lag: lag.name),
        Column("CHECKPOINT", lambda lag: lag.checkpoint),
        Column("HEAD", lambda lag: lag.head),
        Column("EVENTS BEHIND", lambda lag: lag.events_behind),
        Column("BEHIND SINCE", lambda lag: lag.behind_since, lambda lag: output.moment(lag.behind_since)),
    ]
    rows = output.rows(columns, _lag_document)
    rows.write(lags)
    rows.close()


def _lag_document(lag: "Lag") -> dict[str, Any]:
    from ledger.run.codec import timestamp

    since = lag.behind_since
    return {**lag._asdict(), "behind_since": None if since is None else timestamp(since)}


@projection.command(cls=JsonCommand, short_help="Make a projection anew from the log.")
@_name_argument
@output_options(lambda: REBUILD_FIELDS)
@url_option
def rebuild(*, name: str, url: Setting, output: Output) -> None:
    """Make a projection (default: runs) anew from the log, beside the live one, then go over to it.

    Readers and writers go on meanwhile. Safe to break off at any point. Piped, it prints: name, generation, and the
    position that was reached.

    \b
    Example:
      runfold projection rebuild runs
    """
    from projections.projector import rebuild

    reached = 0

    def progress(position: int, head: int) -> None:
        nonlocal reached
        reached = position
        if sys.stderr.isatty():
            share = 100 if head == 0 else 100 * position // head
            sys.stderr.write(f"\r\x1b[2K{name}: {share} %, at position {position:,} of {head:,}")
            sys.stderr.flush()

    with reading_ledger(url) as log:
        try:
            generation = rebuild(log, name, progress=progress)
        finally:
            if sys.stderr.isatty():
                sys.stderr.write("\r\x1b[2K")
    if output.is_json:
        output.document({"name": name, "generation": generation, "position": reached})
    elif output.is_terminal:
        output.line(f"{name} is rebuilt up to position {reached:,}, as generation {generation}.")
    else:
        output.line(f"{name}\t{generation}\t{reached}")


@projection.command(cls=JsonCommand, short_help="Compare a projection with the log.")
@_name_argument
@output_options(lambda: VERIFY_FIELDS)
@url_option
def verify(*, name: str, url: Setting, output: Output) -> None:
    """Fold every run of the log again and compare it with its row; exit with 8 if one differs.

    Of `runs`, the counts by project, kind and status are compared as well.

    Piped, it prints: name, `equal` or `different`, rows compared, and a line for each difference: `missing`, `extra`
    or `differing`, and the run id; or `miscounted`, project, kind, status, what is counted, and how many there are.

    \b
    Example:
      runfold projection verify runs || runfold projection rebuild runs
    """
    from projections.projector import verify

    with reading_ledger(url) as log:
        found = verify(log, name)
    if output.is_json:
        miscounted = [count._asdict() for count in found.miscounted]
        output.document({"name": name, "is_equal": bool(found), **found._asdict(), "miscounted": miscounted})
    else:
        _print_verdict(output, name, found)
    if not found:
        raise NotVerified(f"{_told(name, found)} Make them anew with `runfold projection rebuild {name}`.")


def _told(name: str, found: "Verification") -> str:
    named = [*found.missing, *found.extra, *found.differing]
    more = f" and {len(named) - _NAMED_MAX} more" if len(named) > _NAMED_MAX else ""
    rows = f"{len(named)} row(s) of `{name}` are not what the log says: {', '.join(named[:_NAMED_MAX])}{more}."
    counts = f"{len(found.miscounted)} count(s) of `{name}` are not what its rows say."
    return " ".join([*([rows] if named else []), *([counts] if found.miscounted else [])])


def _print_verdict(output: Output, name: str, found: "Verification") -> None:
    if output.is_terminal:
        cell: Cell = output.word("passed" if found else "failed")
        word = "equal to the log" if found else "different from the log"
        glyph = cell.text.split()[0]
        output.line(f"{output.paint(glyph, cell.style)} {name}: {found.checked:,} rows compared, {word}")
    else:
        output.line(f"{name}\t{'equal' if found else 'different'}\t{found.checked}")
    for kind in ("missing", "extra", "differing"):
        for run_id in getattr(found, kind):
            output.line(f"{kind}\t{run_id}")
    for count in found.miscounted:
        output.line("\t".join(["miscounted", *("" if value is None else printable(str(value)) for value in count)]))
