"""Finds the numbered migrations of a database and decides which of them to apply.

The files are the same in number and name for every database, go forward only, and never change once released: each
adapter records their checksums, and a difference is an error before anything else happens. How a migration is applied
(under which lock, in which transaction) is the adapters' business.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from ledger.errors import SchemaMismatch


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of a database's tables.

    Attributes:
        number: Its place, from 1, dense.
        name: What it brings, as in its file name.
        sql: Its statements.
        checksum: SHA-256 of the file, in hex.
    """

    number: int
    name: str
    sql: str
    checksum: str


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """Where one migration stands in one database.

    Attributes:
        migration: Which.
        applied_at: When it was applied, in UTC; None while it is pending.
    """

    migration: Migration
    applied_at: str | None


def schema_folder() -> Traversable:
    """Find the folder of migrations: inside the installed package, or beside it in a checkout."""
    packaged = files("ledger") / "schema"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "schema"


def load_migrations(dialect: str) -> list[Migration]:
    """Read the migrations of a database in order.

    Args:
        dialect: `sqlite` or `postgres`.

    Raises:
        SchemaMismatch: when their numbers are not 1, 2, 3 …
    """
    migrations = []
    for file in sorted((schema_folder() / dialect).iterdir(), key=lambda file: file.name):
        number, _, name = file.name.removesuffix(".sql").partition("_")
        content = file.read_bytes()
        migrations.append(Migration(int(number), name, content.decode(), hashlib.sha256(content).hexdigest()))
    if [migration.number for migration in migrations] != list(range(1, len(migrations) + 1)):
        raise SchemaMismatch(f"the {dialect} migrations of this installation are not numbered 1, 2, 3 …: reinstall it.")
    return migrations


def pending(known: Sequence[Migration], applied: Mapping[int, tuple[str, str]]) -> list[Migration]:
    """Give the migrations that a database still needs.

    Args:
        known: Those of this release.
        applied: Number to name and checksum of those that the database has.

    Raises:
        SchemaMismatch: when the database has one that this release does not know, or that differs, or lacks one
            before its last.
    """
    newest = known[-1].number
    if applied and max(applied) > newest:
        raise SchemaMismatch(
            f"the database is at migration {max(applied)}, this release knows {newest}: a newer release migrated it."
            " Upgrade this one."
        )
    for migration in known:
        name, checksum = applied.get(migration.number, (migration.name, migration.checksum))
        if (name, checksum) != (migration.name, migration.checksum):
            raise SchemaMismatch(
                f"migration {migration.number} was applied as `{name}` with other content than this release's"
                f" `{migration.name}`: released migrations never change. Install the release that wrote the database."
            )
    missing = [migration for migration in known if migration.number not in applied]
    if missing and applied and missing[0].number < max(applied):
        raise SchemaMismatch(
            f"the database has migration {max(applied)} and not {missing[0].number}: somebody changed what is"
            " recorded. Restore the table `schema_migrations` from a backup."
        )
    return missing


def require_none_pending(missing: Sequence[Migration], *, url: str) -> None:
    """Refuse to work on tables that are not up to date.

    Raises:
        SchemaMismatch: when a migration is missing.
    """
    if missing:
        raise SchemaMismatch(
            f"{url} lacks {len(missing)} migration(s), first {missing[0].number:04d}_{missing[0].name}:"
            f" apply them with `runfold db migrate --url {url}`."
        )
