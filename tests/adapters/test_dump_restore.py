"""A log that was copied goes on: readers skip nothing and see nothing twice, and new events come after the old ones."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import apsw
import psycopg
import pytest
from builders import a_run_id
from postgres_server import PostgresServer

import ledger
from ledger.errors import UnsafeStore
from projections import Runs, rebuild, verify

Copy = Callable[[str], str]
"""Copies a ledger and gives the copy's URL."""


def fill(log: ledger.Ledger, *, first: int, runs: int = 5) -> None:
    for number in range(first, first + runs):
        run = log.enqueue(
            "test", run_id=a_run_id(number), labels={"number": str(number)}, exclusive_key=f"key {number}"
        )
        log.start(run.id, worker="w")
        log.append_results(run.id, [{"status": "passed"}, {"status": "failed"}])


def places(log: ledger.Ledger, *, after: int = 0) -> list[tuple[int, str]]:
    return [(event.position, event.event_id) for event in log.read_all(after=after)]


# --- ways to copy -------------------------------------------------------------------------------------------------


@pytest.fixture
def pg_dump_restore(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[Copy]:
    """Copies everything by pg_dump and pg_restore into an empty database."""
    made: list[str] = []

    def copy(url: str) -> str:
        made.append(postgres_server.create_database())
        postgres_server.run_client("pg_dump", "--format=custom", f"--file={tmp_path / 'dump'}", url)
        postgres_server.run_client("pg_restore", "--exit-on-error", f"--dbname={made[-1]}", str(tmp_path / "dump"))
        return made[-1]

    yield copy
    for url in made:
        postgres_server.drop_database(url)


@pytest.fixture
def pg_dump_data(postgres_server: PostgresServer, postgres_template: str, tmp_path: Path) -> Iterator[Copy]:
    """Copies the rows alone, by COPY, into a database that was migrated."""
    made: list[str] = []

    def copy(url: str) -> str:
        made.append(postgres_server.create_database(template=postgres_template))
        postgres_server.run_client(
            "pg_dump",
            "--format=custom",
            "--data-only",
            "--exclude-table=runfold.schema_migrations",
            f"--file={tmp_path / 'data'}",
            url,
        )
        with psycopg.connect(made[-1], autocommit=True) as connection:
            connection.execute("DELETE FROM runfold.projections")
        postgres_server.run_client(
            "pg_restore",
            "--exit-on-error",
            "--disable-triggers",  # tasks are among the rows; they are not to be made again from the events
            f"--dbname={made[-1]}",
            str(tmp_path / "data"),
        )
        return made[-1]

    yield copy
    for url in made:
        postgres_server.drop_database(url)


@pytest.fixture
def backup_api(tmp_path: Path) -> Copy:
    """Copies by SQLite's online backup."""

    def copy(url: str) -> str:
        source, target = url.removeprefix("sqlite:///"), tmp_path / "backup.db"
        with (
            closing(apsw.Connection(source)) as read,
            closing(apsw.Connection(str(target))) as written,
            written.backup("main", read, "main") as backup,
        ):
            while not backup.done:
                backup.step(10)
        return f"sqlite:///{target}"

    return copy


@pytest.fixture
def vacuum_into(tmp_path: Path) -> Copy:
    """Copies by VACUUM INTO."""

    def copy(url: str) -> str:
        target = tmp_path / "vacuumed.db"
        with closing(apsw.Connection(url.removeprefix("sqlite:///"))) as connection:
            connection.execute("VACUUM INTO ?", (str(target),))
        return f"sqlite:///{target}"

    return copy


@pytest.fixture(params=["pg_dump_restore", "pg_dump_data", "backup_api", "vacuum_into"])
def way(request: pytest.FixtureRequest) -> tuple[str, Copy]:
    """A ledger and a way to copy it."""
    database = "postgres_url" if request.param.startswith("pg") else "sqlite_url"
    return request.getfixturevalue(database), request.getfixturevalue(request.param)


# --- what a copy must do ------------------------------------------------------------------------------------------


def test_reader_when_the_log_was_copied(way: tuple[str, Copy]) -> None:
    """A cursor from before the copy goes on in it without a skip or a double, and new events get positions above."""
    url, copy = way
    with ledger.open(url, migrate=True) as log:
        fill(log, first=1)
        seen = places(log)
        burn_positions(url)  # a hole in the middle, and one at the end
        fill(log, first=11)
        expected = places(log)
        burn_positions(url)

    copied = copy(url)

    with ledger.open(copied) as log:
        seen += places(log, after=seen[-1][0])
        assert expected == seen
        fill(log, first=21)
        later = places(log, after=seen[-1][0])
        assert (15, True) == (len(later), later[0][0] > expected[-1][0])
        assert expected + later == places(log)


def test_copy_when_it_is_worked_on(way: tuple[str, Copy]) -> None:
    """The copy knows keys, runs and rows as the original did, refuses changes, and its rows are the log's fold."""
    url, copy = way
    with ledger.open(url, migrate=True) as log:
        fill(log, first=1)
        log.complete(a_run_id(1))
        listed = Runs(log).list(labels={"number": "3"}).runs
        fill(log, first=11)  # not in the rows yet

    copied = copy(url)

    with ledger.open(copied) as log:
        assert listed == Runs(log).list(labels={"number": "3"}).runs
        assert verify(log)
        assert not log.fail(a_run_id(1), error="late")
        with pytest.raises(ledger.ExclusiveKeyTaken):
            log.enqueue("test", exclusive_key="key 2")
        rebuild(log)
        assert (10, True) == (Runs(log).count(), bool(verify(log)))
    with pytest.raises((apsw.ConstraintError, psycopg.Error)):
        execute(copied, "DELETE FROM {events}")


def test_copy_when_writers_go_on(way: tuple[str, Copy]) -> None:
    """A copy that is made under load is one moment of the log: its versions are dense, its places the original's."""
    url, copy = way
    stop = threading.Event()

    def write(number: int) -> None:
        with ledger.open(url) as log:
            while not stop.is_set():
                log.append_results(a_run_id(number), [{"status": "passed"}])

    with ledger.open(url, migrate=True) as log:
        fill(log, first=1)
        writers = [threading.Thread(target=write, args=(number,)) for number in (1, 2, 3)]
        for writer in writers:
            writer.start()
        try:
            with log.subscribe() as events:
                for _ in range(50):
                    next(events)  # they are at work
            copied = copy(url)
        finally:
            stop.set()
            for writer in writers:
                writer.join(60)
        whole = dict(places(log))

    with ledger.open(copied) as log:
        there = places(log)
        assert len(there) >= 50
        assert dict(there).items() <= whole.items()
        for number in range(1, 6):
            versions = [event.version for event in log.read(a_run_id(number))]
            assert list(range(1, len(versions) + 1)) == versions
        log.append_results(a_run_id(1), [{"status": "passed"}])
        assert places(log)[-1][0] > there[-1][0]


def test_standby_when_it_is_opened_and_promoted(postgres_server: PostgresServer, postgres_url: str) -> None:
    """A standby is refused, since it may show less than was acknowledged; once promoted, a reader goes on with it."""
    if not postgres_server.is_ours:
        pytest.skip("the server that RUNFOLD_TEST_POSTGRES names is not copied by a test")
    with ledger.open(postgres_url) as log:
        fill(log, first=1)
        seen = places(log)
        fill(log, first=11)
        expected = places(log)

    with postgres_server.standby() as standby:
        url = standby.database_url(postgres_url.rpartition("/")[2])
        with pytest.raises(UnsafeStore, match="standby"):
            ledger.open(url)
        standby.promote()
        with ledger.open(url) as log:
            seen += places(log, after=seen[-1][0])
            fill(log, first=21)
            later = places(log, after=seen[-1][0])

    assert expected == seen
    assert (15, True) == (len(later), later[0][0] > expected[-1][0])


# --- the database itself ------------------------------------------------------------------------------------------


def execute(url: str, sql: str) -> None:
    if url.startswith("sqlite"):
        with closing(apsw.Connection(url.removeprefix("sqlite:///"))) as connection:
            connection.execute(sql.format(events="events"))
    else:
        with psycopg.connect(url) as connection_to_server:
            connection_to_server.execute(sql.format(events="runfold.events").encode())


def burn_positions(url: str) -> None:
    """Begin appends and take them back; on PostgreSQL that leaves holes."""
    copied = (
        "INSERT INTO {events} (run_id, version, event_id, type, envelope, payload, salt)"
        " SELECT run_id, version + 1000, %s, type, envelope, payload, salt FROM {events} WHERE version = 1"
    )
    if url.startswith("sqlite"):
        with closing(apsw.Connection(url.removeprefix("sqlite:///"))) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute((copied % "'0' || substr(event_id, 2, 34) || 'x'").format(events="events"))
            connection.execute("ROLLBACK")
    else:
        with psycopg.connect(url) as connection_to_server:
            connection_to_server.execute((copied % "gen_random_uuid()").format(events="runfold.events").encode())
            connection_to_server.rollback()
