"""Fixtures: a ledger on each database, real ones all of them."""

import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from postgres_server import Logins, PostgresServer, folder_in_memory, running_server

import ledger
from ledger.stores.postgres import PostgresStore


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A server for the whole session; `RUNFOLD_TEST_POSTGRES` names another one."""
    with running_server(parent=folder_in_memory()) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of a database with tables and without events, to be copied."""
    url = postgres_server.create_database()
    ledger.open(url, migrate=True).close()
    yield urlsplit(url).path.removeprefix("/")
    postgres_server.drop_database(url)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, postgres_template: str) -> Iterator[str]:
    url = postgres_server.create_database(template=postgres_template)
    yield url
    postgres_server.drop_database(url)


@pytest.fixture(scope="session")
def logins(postgres_server: PostgresServer, postgres_template: str) -> Iterator[Logins]:
    """Users who may do no more than their duty, in a database to be copied."""
    url = postgres_server.create_database(template=postgres_template)
    made = Logins(postgres_server, urlsplit(url).path.removeprefix("/"))
    store = PostgresStore(url)
    store.grant_roles({"writer": made.roles["writer"], "reader": made.roles["reader"], "eraser": made.roles["eraser"]})
    store.close()
    yield made
    postgres_server.drop_database(url)
    made.drop()


@pytest.fixture
def owner_url(postgres_server: PostgresServer, logins: Logins) -> Iterator[str]:
    """A database with the roles, for its owner; `logins.url` makes it another user's."""
    url = postgres_server.create_database(template=logins.database)
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}"


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def ledger_url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory:"
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(params=["sqlite", "postgres"])
def shared_url(request: pytest.FixtureRequest) -> str:
    """A ledger that several processes can open."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def log(ledger_url: str) -> Iterator[ledger.Ledger]:
    with ledger.open(ledger_url, migrate=True) as opened:
        yield opened
