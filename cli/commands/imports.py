"""`runfold import`: brings the runs of another system in."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from cli.config import Setting
from cli.errors import NoLedger
from cli.options import JsonCommand, output_options, reading_ledger, require_ledger, url_option, writing_ledger
from cli.output import Output

if TYPE_CHECKING:
    from cli.imports.importing import Report
    from cli.imports.source_file import SourceFile
    from cli.imports.source_run import SourceRun
    from ledger.api import Ledger

FIELDS: Final = ("runs", "new_runs", "events", "repaired", "skipped")
_SHOWN: Final = 20
_EVERY_RUNS: Final = 200
_SYSTEMS: Final = ("sentri", "choo", "sando")


class NotAllImported(click.ClickException):
    """Something of the source could not be brought in; the rest was."""


@click.command("import", cls=JsonCommand, short_help="Bring in the runs of another system.")
@click.argument("system", type=click.Choice(_SYSTEMS))
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Only tell what would be brought in.")
@output_options(lambda: FIELDS)
@url_option
def import_command(*, system: str, file: Path, dry_run: bool, url: Setting, output: Output) -> None:
    """Bring in the runs of another system, as histories with their original times.

    FILE is a Sentri SQLite database, a choo daemon.db, or a SQLite file with Sando's build_runs. It is only read. A
    second import of the same file adds nothing; one of a file that grew goes on with the runs that went on. What had to
    be mended or left out is told with its run.

    \b
    Examples:
      runfold import sentri data/sentri.db --dry-run
      runfold import choo ~/.choo/daemon.db
    """
    from cli.imports.importing import Report, import_runs
    from cli.imports.source_file import SourceFile

    report = Report()
    with SourceFile(file) as source:
        runs = _reader(system)(source)
        first = list(islice(runs, 1))  # whose file it is shows here, before a ledger is made
        with _looked_at(url) if dry_run else writing_ledger(url) as log:
            reports = import_runs(log, chain(first, runs), system=system, origin=file.name, is_dry=dry_run)
            for report in reports:
                if report.runs % _EVERY_RUNS == 0:
                    output.tell(f"{report.runs:,} runs read, {report.events:,} events appended …")
    if output.is_json:
        output.document(_document(report))
    else:
        output.facts([(name, str(_figures(report)[name])) for name in FIELDS])
        _tell_troubles(report)
    if report.skipped:
        raise NotAllImported(
            f"{len(report.skipped)} of {report.runs} runs were not brought in whole, the first: {report.skipped[0][0]}:"
            f" {report.skipped[0][1]}"
        )


@contextmanager
def _looked_at(url: Setting) -> "Iterator[Ledger]":
    """Open a ledger that nothing is written to; where there is none, an empty one that nobody else sees."""
    from ledger.opening import open as open_ledger

    try:
        require_ledger(url)
        opened: AbstractContextManager[Ledger] = reading_ledger(url)
    except NoLedger:
        opened = open_ledger("memory:")
    with opened as log:
        yield log


def _reader(system: str) -> "Callable[[SourceFile], Iterator[SourceRun]]":
    from importlib import import_module

    reader: Callable[[SourceFile], Iterator[SourceRun]] = import_module(f"cli.imports.{system}").read_runs
    return reader


def _figures(report: "Report") -> dict[str, int]:
    return {
        "runs": report.runs,
        "new_runs": report.new_runs,
        "events": report.events,
        "repaired": len(report.repaired),
        "skipped": len(report.skipped),
    }


def _document(report: "Report") -> dict[str, object]:
    return {
        **_figures(report),
        "repaired": [{"run": run, "what": what} for run, what in report.repaired],
        "skipped": [{"run": run, "why": why} for run, why in report.skipped],
    }


def _tell_troubles(report: "Report") -> None:
    for word, troubles in (("repaired", report.repaired), ("skipped", report.skipped)):
        for run, what in troubles[:_SHOWN]:
            sys.stderr.write(f"{word} {run}: {what}\n")
        if len(troubles) > _SHOWN:
            sys.stderr.write(f"{word}: {len(troubles) - _SHOWN:,} more; --json has all of them\n")
