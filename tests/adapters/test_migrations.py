"""Migrations: applied once whoever comes first, whole or not at all, and refused when the record of them is wrong."""

import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import apsw
import psycopg
import pytest
from postgres_server import PostgresServer

import ledger
from ledger.errors import SchemaMismatch, StoreUnavailable
from ledger.stores import migrations

ROOT = Path(__file__).parents[2]
COUNT = len(list((ROOT / "schema" / "sqlite").glob("*.sql")))

MIGRATING = """
import sys
import ledger
print("ready", flush=True)
sys.stdin.readline()
with ledger.open(sys.argv[1], migrate=True) as log:
    print(log.enqueue("test").is_new)
"""


@pytest.fixture(params=["sqlite", "postgres"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> "str":  # type: ignore[misc]
    """A database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'runs.db'}"  # type: ignore[misc]
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    url = server.create_database()
    yield url  # type: ignore[misc]
    server.drop_database(url)


def query(url: str, sql: str) -> list[tuple[object, ...]]:
    """Ask the database itself, past the ledger; `{schema}` is what stands before its tables."""
    if url.startswith("sqlite"):
        with closing(apsw.Connection(url.removeprefix("sqlite:///"))) as connection:
            return list(connection.execute(sql.format(schema="")))
    with psycopg.connect(url, autocommit=True) as connection_to_server:
        cursor = connection_to_server.execute(sql.format(schema="runfold.").encode())
        return list(cursor) if cursor.description else []


def applied(url: str) -> list[object]:
    return [number for (number,) in query(url, "SELECT number FROM {schema}schema_migrations ORDER BY number")]


def change_record(url: str, sql: str) -> None:
    ledger.open(url, migrate=True).close()
    query(url, sql)


@pytest.mark.parametrize("round_number", range(3))
def test_migrate_when_four_processes_begin_at_once(new_url: str, round_number: int) -> None:
    """Whoever comes first applies them, the others find them applied, and all can work."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MIGRATING, new_url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()

    said = [process.communicate(timeout=60)[0] for process in processes]

    assert ["True\n"] * 4 == said
    assert list(range(1, COUNT + 1)) == applied(new_url)
    assert [(4,)] == query(new_url, "SELECT count(*) FROM {schema}events")


@pytest.mark.parametrize("migrate", [True, False])
def test_open_when_a_checksum_is_another(new_url: str, migrate: bool) -> None:
    """A migration that was applied with other content is refused: nobody knows what the tables are."""
    change_record(new_url, "UPDATE {schema}schema_migrations SET checksum = 'other' WHERE number = 1")

    with pytest.raises(SchemaMismatch, match="migration 1 was applied as `log` with other content"):
        ledger.open(new_url, migrate=migrate)


@pytest.mark.parametrize("migrate", [True, False])
def test_open_when_a_newer_release_migrated(new_url: str, migrate: bool) -> None:
    """A database of a newer release is refused, with what to upgrade; what it has stays."""
    change_record(new_url, "INSERT INTO {schema}schema_migrations VALUES (999, 'future', 'x', 'now')")

    with pytest.raises(SchemaMismatch, match=rf"at migration 999, this release knows {COUNT}: a newer release"):
        ledger.open(new_url, migrate=migrate)

    assert [*range(1, COUNT + 1), 999] == applied(new_url)


@pytest.mark.parametrize("migrate", [True, False])
def test_open_when_the_record_has_a_gap(new_url: str, migrate: bool) -> None:
    """A record that lacks a migration before its last is refused, and the migration is not applied again."""
    change_record(new_url, "DELETE FROM {schema}schema_migrations WHERE number = 1")

    with pytest.raises(SchemaMismatch, match=f"has migration {COUNT} and not 1"):
        ledger.open(new_url, migrate=migrate)

    assert list(range(2, COUNT + 1)) == applied(new_url)


def test_migrate_when_there_is_nothing_to_do(new_url: str) -> None:
    """A second migration changes nothing, and keeps when the first was."""
    everything = "SELECT * FROM {schema}schema_migrations ORDER BY number"
    ledger.open(new_url, migrate=True).close()
    before = query(new_url, everything)

    ledger.open(new_url, migrate=True).close()

    assert before == query(new_url, everything)


# --- a release with one migration more ----------------------------------------------------------------------------


@pytest.fixture
def next_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of migrations of the release after this one."""
    folder = tmp_path / "schema"
    shutil.copytree(ROOT / "schema", folder)
    monkeypatch.setattr(migrations, "schema_folder", lambda: folder)
    return folder


def add_migration(folder: Path, sql: str) -> None:
    for database, schema in (("sqlite", ""), ("postgres", "runfold.")):
        (folder / database / f"{COUNT + 1:04d}_more.sql").write_text(sql.format(schema=schema))


def test_open_when_a_migration_is_pending(new_url: str, next_release: Path) -> None:
    """Tables of the release before are refused until they are migrated; then what was there is there."""
    with ledger.open(new_url, migrate=True) as log:
        run_id = log.enqueue("test").id
    add_migration(next_release, "CREATE TABLE {schema}more (a integer)")

    with pytest.raises(
        SchemaMismatch, match=rf"lacks 1 migration\(s\), first {COUNT + 1:04d}_more: .*runfold db migrate"
    ):
        ledger.open(new_url, migrate=False)
    with ledger.open(new_url, migrate=True) as log:
        assert 1 == log.state(run_id).version

    assert list(range(1, COUNT + 2)) == applied(new_url)


@pytest.mark.parametrize("has_tables", [True, False])
def test_migrate_when_a_migration_fails(new_url: str, next_release: Path, has_tables: bool) -> None:
    """A migration that fails takes everything back with it; put right, it goes in."""
    if has_tables:
        ledger.open(new_url, migrate=True).close()
    add_migration(next_release, "CREATE TABLE {schema}more (a integer); INSERT INTO {schema}no_such VALUES (1);")

    with pytest.raises(StoreUnavailable, match="no_such"):
        ledger.open(new_url, migrate=True)

    add_migration(next_release, "CREATE TABLE {schema}more (a integer)")
    if has_tables:
        assert list(range(1, COUNT + 1)) == applied(new_url)
    with ledger.open(new_url, migrate=True) as log:
        assert log.enqueue("test").is_new
    assert list(range(1, COUNT + 2)) == applied(new_url)


def test_migrations_when_an_installation_lacks_one(next_release: Path, sqlite_url: str) -> None:
    """An installation without one of its files says so, before anything is applied."""
    (next_release / "sqlite" / "0001_log.sql").unlink()

    with pytest.raises(SchemaMismatch, match="not numbered 1, 2, 3 …: reinstall it"):
        ledger.open(sqlite_url, migrate=True)


def test_migrations_when_the_databases_are_compared() -> None:
    """Every migration is there for both databases, with one name."""
    names = [
        [path.name for path in sorted((ROOT / "schema" / database).iterdir())] for database in ("sqlite", "postgres")
    ]

    assert names[0] == names[1]
    assert COUNT >= 2
