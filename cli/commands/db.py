"""`runfold db`: the tables of the ledger."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import click

import ledger
from cli.config import Setting
from cli.errors import NotVerified
from cli.options import JsonCommand, output_options, refuse_memory, require_ledger, url_option
from cli.output import Cell, Column, Output
from projections.projector import outdated

if TYPE_CHECKING:
    from ledger.stores.migrations import MigrationStatus
    from ledger.stores.postgres import PostgresStore
    from ledger.stores.postgres_roles import Grant
    from ledger.stores.sqlite import SqliteStore

ROLE_FIELDS = ("duty", "role", "is_new", "sql")
FIELDS = ("number", "name", "is_applied", "applied_at", "checksum")


@click.group(short_help="Look after the tables of the ledger.")
def db() -> None:
    """Look after the tables of the ledger.

    \b
    Examples:
      runfold db status --url postgresql://runfold@db/runs
      runfold db migrate --url postgresql://runfold@db/runs
      runfold db roles --url postgresql://runfold@db/runs
    """


@db.command(cls=JsonCommand, short_help="Bring the tables up to this release.")
@output_options(lambda: FIELDS)
@url_option
def migrate(*, url: Setting, output: Output) -> None:
    """Bring the tables up to this release, all or nothing; a SQLite ledger that does not exist is made.

    Prints what was applied, nothing when all was there. Piped, the columns are: number, name, `applied`, applied at,
    checksum.

    \b
    Example:
      runfold db migrate --url postgresql://runfold@db/runs
    """
    refuse_memory(url)
    with _store(url, makes=True) as (store, is_new):
        applied = {migration.number for migration in store.migrate()}
        found = [status for status in store.migration_status() if is_new or status.migration.number in applied]
    _print(output, found)
    if not found:
        output.tell("All migrations were applied before.")
    with ledger.open(url.value, migrate=False) as log:
        for name in outdated(log):
            output.tell(f"An earlier release folded the rows of `{name}`. Next: runfold projection rebuild {name}")


@db.command(cls=JsonCommand, short_help="Tell which migrations are applied.")
@output_options(lambda: FIELDS)
@url_option
def status(*, url: Setting, output: Output) -> None:
    """Tell which migrations of this release are applied; exit with 8 when one is pending.

    Piped, the columns are: number, name, `applied` or `pending`, applied at, checksum.

    \b
    Example:
      runfold db status || runfold db migrate
    """
    require_ledger(url)
    with _store(url, makes=False) as (store, _):
        found = store.migration_status()
    _print(output, found)
    pending = [status for status in found if status.applied_at is None]
    if pending:
        raise NotVerified(
            f"{len(pending)} migration(s) are pending, first {_name(pending[0])}."
            " Apply them with `runfold db migrate`; nothing reads or writes this ledger before."
        )


@db.command(cls=JsonCommand, short_help="Make PostgreSQL roles that may do no more than they need.")
@click.option("--writer", metavar="ROLE", help="For whoever works.  [default: the one there is, or runfold_writer]")
@click.option("--reader", metavar="ROLE", help="For whoever looks.  [default: the one there is, or runfold_reader]")
@click.option("--eraser", metavar="ROLE", help="For whoever purges.  [default: the one there is, or runfold_eraser]")
@click.option("--dry-run", is_flag=True, help="Print the SQL instead of running it.")
@output_options(lambda: ROLE_FIELDS)
@url_option
def roles(
    *, writer: str | None, reader: str | None, eraser: str | None, dry_run: bool, url: Setting, output: Output
) -> None:
    """Make PostgreSQL roles that may do no more than they need, or bring them up to date.

    The writer appends and works, and changes no event; the reader only looks; the eraser empties the data of purged
    runs. They cannot log in: grant them to those who do. Run it as the owner of the tables; it changes nothing that was
    right before. Migrations that come later keep the roles up to date.

    Piped, the columns are: duty, role, `made` or `there`.

    \b
    Examples:
      runfold db roles --dry-run
      runfold db roles --url postgresql://runfold@db/runs
      psql runs -c 'CREATE ROLE ci LOGIN; GRANT runfold_writer TO ci'
    """
    from ledger.stores.postgres_roles import Duty

    if not url.value.startswith(("postgresql://", "postgres://")):
        raise click.UsageError(
            f"{url.value} has no roles: a PostgreSQL ledger has. Who may read and write a file, the file's mode says."
        )
    given: dict[Duty, str | None] = {"writer": writer, "reader": reader, "eraser": eraser}
    store = cast("PostgresStore", _open(url.value, migrate=None))
    try:
        found = store.grant_roles({duty: name for duty, name in given.items() if name is not None}, dry_run=dry_run)
    finally:
        store.close()
    if dry_run and not output.is_json:
        for statement in [statement for grant in found for statement in grant.statements]:
            output.line(f"{statement};")
        return
    _print_roles(output, found)


def _print_roles(output: Output, found: "Sequence[Grant]") -> None:
    columns: list[Column[Grant]] = [
        Column("DUTY", lambda grant: grant.duty),
        Column("ROLE", lambda grant: grant.role),
        Column("STATUS", lambda grant: "made" if grant.is_new else "there"),
    ]
    rows = output.rows(columns, _role_document)
    rows.write(found)
    rows.close()


def _role_document(grant: "Grant") -> dict[str, Any]:
    return {"duty": grant.duty, "role": grant.role, "is_new": grant.is_new, "sql": list(grant.statements)}


@contextmanager
def _store(url: Setting, *, makes: bool) -> "Iterator[tuple[SqliteStore | PostgresStore, bool]]":
    """Open the store with its tables as they are; tells whether its file was made now."""
    is_new = makes and not _is_there(url.value)
    store = _open(url.value, migrate=True if is_new else None)
    try:
        yield store, is_new
    finally:
        store.close()


def _is_there(url: str) -> bool:
    path = url.removeprefix("sqlite:///")
    return path == url or os.path.exists(path)


def _open(url: str, *, migrate: bool | None) -> "SqliteStore | PostgresStore":
    if url.startswith("sqlite:///"):
        from ledger.opening import sqlite_path
        from ledger.stores.sqlite import SqliteStore

        return SqliteStore(sqlite_path(url), migrate=migrate)
    if url.startswith(("postgresql://", "postgres://")):
        from ledger.opening import postgres_store

        return postgres_store(url, migrate=migrate)
    raise click.UsageError(f"{url!r} is no ledger: sqlite:///path or postgresql://… is.")


def _print(output: Output, found: "Sequence[MigrationStatus]") -> None:
    columns: list[Column[MigrationStatus]] = [
        Column("NUMBER", lambda status: status.migration.number),
        Column("NAME", lambda status: status.migration.name),
        Column("STATUS", _word, lambda status: Cell(_word(status), "green" if status.applied_at else "yellow")),
        Column("APPLIED", lambda status: status.applied_at, lambda status: _moment(output, status)),
        Column("CHECKSUM", lambda status: status.migration.checksum, only="piped"),
    ]
    rows = output.rows(columns, _document)
    rows.write(found)
    rows.close()


def _document(status: "MigrationStatus") -> dict[str, Any]:
    return {
        "number": status.migration.number,
        "name": status.migration.name,
        "is_applied": status.applied_at is not None,
        "applied_at": status.applied_at,
        "checksum": status.migration.checksum,
    }


def _moment(output: Output, status: "MigrationStatus") -> str:
    from datetime import datetime

    return "" if status.applied_at is None else output.moment(datetime.fromisoformat(status.applied_at))


def _word(status: "MigrationStatus") -> str:
    return "pending" if status.applied_at is None else "applied"


def _name(status: "MigrationStatus") -> str:
    return f"{status.migration.number:04d}_{status.migration.name}"
