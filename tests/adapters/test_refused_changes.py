"""The database itself refuses to change, delete or overwrite an event, whoever asks; only erasing is let through."""

from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import psycopg
import pytest

import ledger

Execute = Callable[[str], object]

CHANGES = [
    "UPDATE {events} SET type = 'completed'",
    "UPDATE {events} SET envelope = payload",
    "UPDATE {events} SET version = version + 100",
    "UPDATE {events} SET payload = salt",
    "UPDATE {events} SET payload = NULL",
    "UPDATE {events} SET payload = NULL, salt = NULL, type = 'x'",
    "DELETE FROM {events}",
    "DELETE FROM {events} WHERE version = 2",
]
SQLITE_CHANGES = [
    "INSERT OR REPLACE INTO events SELECT * FROM events WHERE version = 1",
    "REPLACE INTO events (run_id, version, event_id, type, envelope) SELECT run_id, version, event_id, 'x', envelope"
    " FROM events",
    "INSERT OR REPLACE INTO events (run_id, version, event_id, type, envelope) SELECT run_id, version,"
    " substr(event_id, 1, 35) || 'x', type, envelope FROM events WHERE version = 1",
    "UPDATE OR REPLACE events SET version = 1 WHERE version = 2",
]
POSTGRES_CHANGES = [
    "TRUNCATE runfold.events",
    "TRUNCATE runfold.events CASCADE",
    "INSERT INTO runfold.events (run_id, version, event_id, type, envelope) SELECT run_id, version, event_id, type,"
    " envelope FROM runfold.events WHERE version = 1 ON CONFLICT (event_id) DO UPDATE SET type = 'x'",
    "SET session_replication_role = replica; DELETE FROM runfold.events",
    "SET session_replication_role = replica; UPDATE runfold.events SET type = 'x'",
]


def fill(url: str) -> str:
    with ledger.open(url, migrate=True) as log:
        run = log.enqueue("test", input={"a": 1})
        log.start(run.id, worker="w")
        return run.id


@pytest.fixture
def sqlite_events(tmp_path: Path) -> Iterator[tuple[str, str, Execute]]:
    """A file with two events, its URL, the run, and a foreign connection with SQLite's defaults."""
    path = tmp_path / "runs.db"
    run_id = fill(f"sqlite:///{path}")
    connection = apsw.Connection(str(path))
    yield f"sqlite:///{path}", run_id, lambda sql: connection.execute(sql).fetchall()
    connection.close()


@pytest.fixture
def postgres_events(postgres_url: str) -> Iterator[tuple[str, str, Execute]]:
    """A database with two events, its URL, the run, and a superuser's connection."""
    run_id = fill(postgres_url)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield postgres_url, run_id, lambda sql: connection.execute(sql.encode())


@pytest.mark.parametrize("change", [*CHANGES, *SQLITE_CHANGES])
def test_change_when_sqlite_is_asked(sqlite_events: tuple[str, str, Execute], change: str) -> None:
    """SQLite refuses the change, and the events are what they were."""
    url, run_id, execute = sqlite_events
    with ledger.open(url) as log:
        before = list(log.read(run_id))

        with pytest.raises(apsw.ConstraintError):
            execute(change.format(events="events"))

        assert before == list(log.read(run_id))


@pytest.mark.parametrize("change", [*CHANGES, *POSTGRES_CHANGES])
def test_change_when_postgres_is_asked(postgres_events: tuple[str, str, Execute], change: str) -> None:
    """PostgreSQL refuses the change, from a superuser too, and the events are what they were."""
    url, run_id, execute = postgres_events
    with ledger.open(url) as log:
        before = list(log.read(run_id))

        with pytest.raises(psycopg.Error):
            execute(change.format(events="runfold.events"))

        assert before == list(log.read(run_id))


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_erasing_when_payload_and_salt_go_together(database: str, request: pytest.FixtureRequest) -> None:
    """Payload and salt can be erased together: the envelope stays, and the event is read without its data."""
    url, run_id, execute = request.getfixturevalue(f"{database}_events")
    events = {"sqlite": "events", "postgres": "runfold.events"}[database]

    execute(f"UPDATE {events} SET payload = NULL, salt = NULL WHERE version = 1")

    with ledger.open(url) as log:
        erased, kept = log.read(run_id)
        assert (None, "enqueued") == (erased.data, erased.type)
        assert kept.data is not None
