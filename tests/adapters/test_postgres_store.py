"""What the PostgreSQL adapter refuses to work with, and what it says when the server has no room or no right for it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from builders import NOON, RUN, enqueued, new_events
from postgres_server import PostgresServer

import ledger
from ledger.errors import NotPermitted, SchemaMismatch, StoreBusy, StoreUnavailable, UnsafeStore
from ledger.events import EventId
from ledger.run.events import Annotated, RunEvent
from ledger.store import ANY, AppendRequest
from ledger.stores import postgres
from ledger.stores.postgres import PostgresStore
from projections import Runs, rebuild

MakeRole = Callable[..., str]
"""Makes a role that may do what it is granted, and gives the ledger's URL as that role."""

READING = ("SELECT ON ALL TABLES IN SCHEMA runfold", "SELECT ON ALL SEQUENCES IN SCHEMA runfold")
WRITING = (*READING, "INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA runfold")


def request(event: RunEvent, *, first_id: int = 1) -> AppendRequest:
    return AppendRequest(RUN, ANY, new_events([event], first_id=first_id, at=NOON))


@pytest.fixture
def make_role(postgres_url: str) -> Iterator[MakeRole]:
    made: list[str] = []

    def make(options: str = "", *, grants: tuple[str, ...] = WRITING, settings: tuple[str, ...] = ()) -> str:
        name = f"{urlsplit(postgres_url).path.removeprefix('/')}_role_{len(made)}"
        made.append(name)
        execute(
            postgres_url,
            f"CREATE ROLE {name} LOGIN PASSWORD 'hunter2' {options}",
            f"GRANT USAGE ON SCHEMA runfold TO {name}",
            *[f"GRANT {grant} TO {name}" for grant in grants],
            *[f"ALTER ROLE {name} SET {setting}" for setting in settings],
        )
        parts = urlsplit(postgres_url)
        return urlunsplit(parts._replace(netloc=f"{name}:hunter2@{parts.hostname}:{parts.port}"))

    yield make
    for name in made:
        execute(postgres_url, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


# --- settings of the server ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["off", "local", "remote_write"])
def test_open_when_a_role_commits_without_waiting(level: str, make_role: MakeRole) -> None:
    """A role that would acknowledge what can be lost is refused, with the setting that is to be changed."""
    url = make_role(settings=(f"synchronous_commit = {level}",))

    with pytest.raises(UnsafeStore, match=f"synchronous_commit={level}"):
        ledger.open(url)


@pytest.mark.parametrize("level", ["on", "remote_apply"])
def test_open_when_a_role_waits_for_its_commits(level: str, make_role: MakeRole) -> None:
    """The levels that keep what they acknowledge are taken."""
    with ledger.open(make_role(settings=(f"synchronous_commit = {level}",))) as log:
        assert log.enqueue("test").is_new


def test_open_when_the_database_commits_without_waiting(postgres_url: str) -> None:
    """A setting of the database counts like one of the role."""
    name = urlsplit(postgres_url).path.removeprefix("/")
    execute(postgres_url, f"ALTER DATABASE {name} SET synchronous_commit = off")

    with pytest.raises(UnsafeStore, match="synchronous_commit=off"):
        ledger.open(postgres_url)


# --- out of reach -------------------------------------------------------------------------------------------------


def test_open_when_nobody_answers() -> None:
    """A server that is not there is told with its URL, without the password."""
    with pytest.raises(StoreUnavailable, match=r"postgresql://ada@127.0.0.1:1/runs cannot be reached") as refusal:
        ledger.open("postgresql://ada:hunter2@127.0.0.1:1/runs")

    assert "hunter2" not in str(refusal.value)


def test_open_when_the_url_cannot_be_read() -> None:
    """A URL that libpq does not understand is told as that, without what stands in it."""
    with pytest.raises(StoreUnavailable, match="cannot be read") as refusal:
        ledger.open("postgresql://ada:hunter2@host:port/runs?no_such=1")

    assert "hunter2" not in str(refusal.value)


def test_open_when_there_is_no_such_database(postgres_server: PostgresServer) -> None:
    """A database that is not there is told by its name."""
    with pytest.raises(StoreUnavailable, match="runfold_nowhere"):
        ledger.open(postgres_server.database_url("runfold_nowhere"))


def test_open_when_there_are_no_tables(postgres_server: PostgresServer) -> None:
    """A database without tables is not migrated unasked; the error says how to do it."""
    url = postgres_server.create_database()
    try:
        with pytest.raises(SchemaMismatch, match="runfold db migrate --url postgresql://"):
            ledger.open(url)
    finally:
        postgres_server.drop_database(url)


# --- connections --------------------------------------------------------------------------------------------------


def test_open_when_connections_are_used_up(make_role: MakeRole) -> None:
    """Without a free connection the ledger is unavailable at once, and nothing hangs."""
    with pytest.raises(StoreUnavailable, match="too many connections"):
        ledger.open(make_role("CONNECTION LIMIT 0"))


def test_calls_when_connections_are_used_up(
    make_role: MakeRole, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every connection at work a call waits, says that nothing was written, and succeeds later."""
    monkeypatch.setattr(postgres, "_CONNECT_TIMEOUT_S", 2)
    store = PostgresStore(make_role("CONNECTION LIMIT 2"))  # one for single appends, one for all else
    store.append(request(enqueued()))
    errors: list[Exception] = []

    def read() -> None:
        try:
            store.find([EventId(str(RUN))])
        except Exception as error:
            errors.append(error)

    with store.in_turn(RUN):
        reader = threading.Thread(target=read)
        reader.start()
        reader.join(20)
    assert [StoreUnavailable] == [type(error) for error in errors]
    assert "gave no connection within 2 s; nothing was written" in str(errors[0])

    read()
    appended = store.append(request(Annotated(note="n"), first_id=10))

    assert (1, 2) == (len(errors), appended.version)
    store.close()


def test_ledgers_when_the_server_is_full(make_role: MakeRole, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one ledger too many is refused; those that are open go on, and those that close make room."""
    monkeypatch.setattr(postgres, "_CONNECT_TIMEOUT_S", 2)
    url = make_role("CONNECTION LIMIT 8")  # a ledger holds two to four
    with ExitStack() as stack:
        opened = [stack.enter_context(ledger.open(url))]
        run = opened[0].enqueue("test")
        opened[0].start(run.id, worker="w")

        def fill_up() -> None:
            for _ in range(8):
                opened.append(stack.enter_context(ledger.open(url)))

        with pytest.raises(StoreUnavailable, match=r"too many connections|gave no connection"):
            fill_up()

        appended = [log.append_results(run.id, [{"status": "passed"}]) for log in opened]
        for log in opened[1:]:
            log.close()
        with ledger.open(url) as log:
            assert len(opened) == log.state(run.id).passed

    assert [1] * len(opened) == appended


# --- rights -------------------------------------------------------------------------------------------------------


def test_reader_when_it_may_not_write(make_role: MakeRole, postgres_url: str) -> None:
    """A role that may only read the log reads it; its append is refused as what the role may not do."""
    with ledger.open(postgres_url) as log:
        run_id = log.enqueue("test").id
        log.start(run_id, worker="w")

    with ledger.open(make_role(grants=READING)) as log:
        assert ["enqueued", "started"] == [event.type for event in log.read_all()]
        assert "running" == Runs(log).get(run_id).status
        with pytest.raises(NotPermitted, match="does not let this user do that"):
            log.append_results(run_id, [{"status": "passed"}])

    with ledger.open(postgres_url) as log:
        assert 2 == log.state(run_id).version


def test_writer_when_it_owns_nothing(make_role: MakeRole, postgres_url: str) -> None:
    """A role with the rights to read and write rows can do a run's whole work, and still change no event."""
    url = make_role()
    with ledger.open(url) as log:
        run_id = log.enqueue("test", shard_count=2, exclusive_key="k").id
        log.start(run_id, worker="w")
        log.append_results(run_id, [{"status": "passed"}], shard=1)
        assert log.complete(run_id)
        assert 1 == Runs(log).count(status="completed")

    for change in ("UPDATE runfold.events SET type = 'x'", "DELETE FROM runfold.events", "TRUNCATE runfold.events"):
        with pytest.raises(psycopg.Error):
            execute(url, change)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        execute(url, "ALTER TABLE runfold.events DISABLE TRIGGER ALL")


# --- long work ----------------------------------------------------------------------------------------------------


def test_rebuild_when_idle_transactions_are_ended(postgres_url: str) -> None:
    """A rebuild leaves no transaction idle, so a server that ends those lets it finish; a second one waits."""
    name = urlsplit(postgres_url).path.removeprefix("/")
    execute(postgres_url, f"ALTER DATABASE {name} SET idle_in_transaction_session_timeout = 50")
    others: list[str] = []

    def progress(position: int, head: int) -> None:
        time.sleep(0.2)
        with ledger.open(postgres_url) as other:
            try:
                rebuild(other)
            except StoreBusy as busy:
                others.append(str(busy))

    with ledger.open(postgres_url) as log:
        log.enqueue("test")
        rebuild(log, progress=progress)
        assert others
        assert all("is under way" in refused for refused in others)
        rebuild(log)
        assert 1 == Runs(log).count()
