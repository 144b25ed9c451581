"""What the SQLite adapter refuses to work with, how long it waits, and what it tells SQLite."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from builders import NOON, RUN, enqueued, new_events, started

import ledger
from ledger import limits
from ledger.errors import SchemaMismatch, StoreBusy, StoreUnavailable, UnsafeStore
from ledger.events import RunId
from ledger.run.events import Annotated, RunEvent
from ledger.store import ANY, AppendRequest
from ledger.stores import sqlite
from ledger.stores.sqlite import SqliteStore, file_system_of, require_safe_library
from projections import Runs

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(path)
    yield opened
    opened.close()


def request(*events: RunEvent, first_id: int = 1, run_id: RunId = RUN) -> AppendRequest:
    return AppendRequest(run_id, ANY, new_events(events, run_id=run_id, first_id=first_id, at=NOON))


# --- a file that cannot be used -----------------------------------------------------------------------------------


def test_open_when_the_file_is_no_database(path: Path) -> None:
    """A file of something else is refused, and left as it is."""
    path.write_text("These are my notes.\n" * 1_000)

    with pytest.raises(StoreUnavailable, match="no SQLite database"):
        SqliteStore(path)

    assert "These are my notes.\n" * 1_000 == path.read_text()


@pytest.mark.parametrize("migrate", [True, False])
def test_open_when_the_database_is_of_something_else(path: Path, migrate: bool) -> None:
    """A database with tables of others is refused, and no table is added."""
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("CREATE TABLE songs (title TEXT); INSERT INTO songs VALUES ('Yesterday')")

    with pytest.raises(SchemaMismatch, match="something else"):
        SqliteStore(path, migrate=migrate)

    with closing(apsw.Connection(str(path))) as connection:
        assert [("songs",)] == connection.execute("SELECT name FROM sqlite_schema").fetchall()


def test_open_when_the_file_is_empty(path: Path) -> None:
    """An empty file is a database without tables: it is made a ledger."""
    path.touch()

    with ledger.open(f"sqlite:///{path}") as log:
        assert log.enqueue("test").is_new


@pytest.mark.parametrize("place", ["/proc/runs.db", "/dev/null/runs.db", "/proc/self/mem"])
def test_open_when_the_place_takes_no_file(place: str) -> None:
    """A place that takes no file, whoever asks, is told with its path."""
    with pytest.raises(StoreUnavailable, match=place):
        SqliteStore(Path(place))


def test_open_when_the_path_is_a_folder(tmp_path: Path) -> None:
    """A folder is no file."""
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        SqliteStore(tmp_path)


AS_SOMEBODY = """
import os, sys
import ledger
from ledger.stores import migrations, sqlite

migrations.load_migrations("sqlite")  # loads what the other user may not be allowed to read
if os.geteuid() == 0:
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
try:
    with ledger.open(f"sqlite:///{sys.argv[1]}") as log:
        print(log.enqueue("test").is_new)
except ledger.LedgerError as error:
    print(type(error).__name__, str(error))
"""


def as_somebody(path: Path) -> str:
    """Open a ledger and enqueue as a user who owns nothing."""
    done = subprocess.run(
        [sys.executable, "-c", AS_SOMEBODY, str(path)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def test_open_when_the_folder_is_read_only() -> None:
    """A folder that takes no new files is told, with and without a ledger in it; nothing is half made."""
    folder = Path(f"/var/tmp/runfold-read-only-{os.getpid()}")  # tmp_path is closed to other users
    folder.mkdir(mode=0o755)
    try:
        (folder / "open").mkdir()
        (folder / "open").chmod(0o777)
        ledger.open(f"sqlite:///{folder / 'there.db'}").close()
        for file in folder.glob("*.db*"):
            file.chmod(0o644)
        folder.chmod(0o555)

        absent = as_somebody(folder / "absent.db")
        there = as_somebody(folder / "there.db")
        allowed = as_somebody(folder / "open" / "runs.db")

        assert "StoreUnavailable" == absent.partition(" ")[0]
        assert "StoreUnavailable" == there.partition(" ")[0]
        assert "True\n" == allowed
        assert not (folder / "absent.db").exists()
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)


# --- network file systems -----------------------------------------------------------------------------------------

MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:26 / /home rw,relatime shared:2 - nfs4 server:/home rw,vers=4.2
31 30 8:2 / /home/ada/scratch rw,noatime - xfs /dev/sdb1 rw
32 22 0:27 / /mnt/team\040share rw - cifs //server/share rw
33 22 0:28 / /data rw - ext4 /dev/sdc1 rw
34 33 0:29 / /data rw master:1 propagate_from:2 - fuse.sshfs ada@host: rw
35 22 0:30 / /srv rw - nfs server:/srv rw
36 35 0:31 / /srv rw - tmpfs tmpfs rw
37 22 0:32 / /back\134slash rw - 9p host rw
""".strip()


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("/", "ext4"),
        ("/var/lib", "ext4"),
        ("/home", "nfs4"),
        ("/home/ada", "nfs4"),
        ("/homework", "ext4"),
        ("/home/ada/scratch", "xfs"),
        ("/home/ada/scratch/not/there/yet", "xfs"),
        ("/home/ada/scratches", "nfs4"),
        ("/mnt/team share/runs", "cifs"),
        ("/mnt/team", "ext4"),
        ("/data/runs", "fuse.sshfs"),
        ("/srv", "tmpfs"),
        ("/back\\slash/runs", "9p"),
    ],
)
def test_file_system_when_mounts_are_nested(folder: str, expected: str) -> None:
    """The deepest mount that holds a folder says what it is on, and the last one of those at one place."""
    assert expected == file_system_of(Path(folder), mounts=MOUNTS)


def test_file_system_when_no_mount_holds_it() -> None:
    """Without a mount nothing is known."""
    assert "" == file_system_of(Path("/x"), mounts="")


@pytest.mark.parametrize(("kind", "is_refused"), [("nfs4", True), ("cifs", True), ("ext4", False), ("tmpfs", False)])
def test_open_when_on_a_network_file_system(
    kind: str, is_refused: bool, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file on a network file system is refused before it is made; a local one is opened."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"22 1 8:1 / / rw - overlay overlay rw\n40 22 0:40 / {tmp_path} rw - {kind} it rw\n")
    monkeypatch.setattr(sqlite, "_MOUNTS", mounts)

    if is_refused:
        with pytest.raises(UnsafeStore, match=rf"network file system \({kind}\)"):
            SqliteStore(path)
    else:
        SqliteStore(path).close()

    assert path.exists() is not is_refused


# --- the library --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "is_safe"),
    [
        ("3.7.0", False),
        ("3.44.5", False),
        ("3.44.6", True),
        ("3.44.9", True),
        ("3.45.0", False),
        ("3.49.2", False),
        ("3.50.6", False),
        ("3.50.7", True),
        ("3.51.0", False),
        ("3.51.2", False),
        ("3.51.3", True),
        ("3.52.0", False),
        ("3.52.1", True),
        ("3.53.0", True),
        ("3.54.1.2", True),
        ("4.0.0", True),
        ("4.0", True),
    ],
)
def test_library_when_it_has_the_wal_reset_bug(version: str, is_safe: bool) -> None:
    """Releases with the bug are refused, its fixes on older lines and everything newer are taken."""
    if is_safe:
        require_safe_library(version)
    else:
        with pytest.raises(UnsafeStore, match=version):
            require_safe_library(version)


# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pragma", "expected"),
    [
        ("journal_mode", "wal"),
        ("synchronous", 2),
        ("trusted_schema", 0),
        ("cell_size_check", 1),
        ("mmap_size", 0),
        ("journal_size_limit", 67_108_864),
    ],
)
def test_connection_when_asked_for_its_settings(pragma: str, expected: object, store: SqliteStore) -> None:
    """Readers and the writer have the settings that durability and safety stand on."""
    with store.reading() as reader, store.writing() as writer:
        assert (expected, expected) == (reader.pragma(pragma), writer.pragma(pragma))


def test_connection_when_the_schema_is_written(store: SqliteStore) -> None:
    """The connection is defensive: not even by SQL can the schema be edited past its rules."""
    with pytest.raises(StoreUnavailable, match="may not be modified"), store.reading() as connection:
        connection.execute("PRAGMA writable_schema = ON; DELETE FROM sqlite_schema")


@pytest.mark.parametrize("level", ["OFF", "NORMAL"])
def test_open_when_commits_would_not_be_flushed(level: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What SQLite says it does is read back: with less than FULL the file is refused."""
    monkeypatch.setattr(sqlite, "_PRAGMAS", (*sqlite._PRAGMAS, f"PRAGMA synchronous = {level}"))

    with pytest.raises(UnsafeStore, match="synchronous="):
        SqliteStore(path)


def test_open_when_the_file_is_kept_in_another_mode(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that somebody reads in rollback mode cannot be turned to WAL: that is told, and works afterwards."""
    monkeypatch.setattr(limits, "BUSY_TIMEOUT_S", 0.2)
    with closing(apsw.Connection(str(path))) as other:
        other.execute("CREATE TABLE t (a)").fetchall()
        other.execute("DROP TABLE t").fetchall()
        other.execute("BEGIN").fetchall()
        other.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        with pytest.raises(StoreUnavailable, match="locked"):
            SqliteStore(path)
        other.execute("COMMIT").fetchall()

    SqliteStore(path).close()


# --- waiting for others -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("events", [(Annotated(note="n"),), (started(), Annotated(note="n"))], ids=["one", "two"])
def test_append_when_the_file_stays_locked(
    store: SqliteStore, path: Path, events: tuple[RunEvent, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer waits its time, once, and says that nothing was written; afterwards the same append goes in."""
    monkeypatch.setattr(limits, "BUSY_TIMEOUT_S", 0.5)
    store.append(request(enqueued()))
    store.append(request(Annotated(note="first"), first_id=2))  # from here on one event goes straight to its place
    with closing(apsw.Connection(str(path))) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(StoreBusy, match="nothing was written"):
            store.append(request(*events, first_id=10))
        took = time.monotonic() - began
        other.execute("ROLLBACK")

    appended = store.append(request(*events, first_id=10))

    assert 0.4 < took < 0.9
    assert (2 + len(events), False) == (appended.version, appended.is_duplicate)


def test_append_when_the_file_is_locked_for_a_while(store: SqliteStore, path: Path) -> None:
    """A writer gets its turn soon after the lock is given back."""
    store.append(request(enqueued()))
    with closing(apsw.Connection(str(path))) as other:
        other.execute("BEGIN IMMEDIATE")
        thread = threading.Timer(0.3, lambda: other.execute("ROLLBACK"))
        thread.start()
        began = time.monotonic()

        appended = store.append(request(Annotated(note="n"), first_id=10))

        took = time.monotonic() - began
        thread.join()
    assert (2, True) == (appended.version, 0.2 < took < 5)


def test_turn_when_the_file_stays_locked(store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn waits like an append, and readers go on meanwhile."""
    monkeypatch.setattr(limits, "BUSY_TIMEOUT_S", 0.2)
    store.append(request(enqueued()))
    with closing(apsw.Connection(str(path))) as other:
        other.execute("BEGIN EXCLUSIVE")

        with pytest.raises(StoreBusy), store.in_turn(RUN):
            pass

        assert 1 == store.read_run(RUN, after_version=0, limit=10).count
        other.execute("ROLLBACK")


def test_writers_when_the_file_stays_locked(store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that wait behind each other for one lock wait their time together, not one after the other."""
    monkeypatch.setattr(limits, "BUSY_TIMEOUT_S", 0.5)
    store.append(request(enqueued()))

    def take_turn(_: int) -> None:
        with pytest.raises(StoreBusy), store.in_turn(RUN):
            pass

    def append(number: int) -> None:
        with pytest.raises(StoreBusy):
            store.append(request(Annotated(note="n"), first_id=10 + number))

    with closing(apsw.Connection(str(path))) as other, ThreadPoolExecutor(16) as pool:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        for done in [pool.submit(write, number) for number in range(8) for write in (take_turn, append)]:
            done.result()
        took = time.monotonic() - began
        other.execute("ROLLBACK")

    assert 0.4 < took < 2
    assert 2 == store.append(request(Annotated(note="n"), first_id=50)).version


READING_ONLY = """
import os, sys
import ledger
from ledger.errors import NotPermitted
from projections import Runs

with ledger.open(f"sqlite:///{sys.argv[1]}/mine.db") as log:  # also imports what an unprivileged user may not read
    log.enqueue("test")
    Runs(log).count()
if os.geteuid() == 0:
    os.seteuid(65534)
with ledger.open(f"sqlite:///{sys.argv[1]}/runs.db", migrate=False) as log:
    print(Runs(log).count(), [run.kind for run in Runs(log).list().runs])
    run_id = Runs(log).latest().run_id
    for write in (
        lambda: log.enqueue("test"),
        lambda: log.append_log(run_id, ["a"]),
        lambda: log.append_results(run_id, [{"testId": "a", "status": "passed"}]),
        lambda: log.abort(run_id),
    ):
        try:
            write()
        except NotPermitted as error:
            print(error)
"""


def test_reader_when_the_file_may_not_be_written() -> None:
    """Whoever may only read the file sees its newest runs, folded in memory, and is told what it may not do."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with ledger.open(f"sqlite:///{folder}/runs.db") as log:
            log.enqueue("build")
            Runs(log).count()
            log.enqueue("test")  # there is no row of this one
            folder.chmod(0o755)
            for file in folder.iterdir():
                file.chmod(0o444)

            done = subprocess.run(
                [sys.executable, "-c", READING_ONLY, name], cwd=ROOT, capture_output=True, text=True, check=False
            )

    assert done.stdout.startswith("2 ['test', 'build']\n"), done.stderr
    assert 4 == done.stdout.count("may be read by this user and not written")


def test_open_when_the_file_is_damaged(tmp_path: Path) -> None:
    """A damaged file is called that, with what helps."""
    path = tmp_path / "runs.db"
    ledger.open(f"sqlite:///{path}").close()
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 4_000)

    with pytest.raises(StoreUnavailable, match=r"is damaged: .* Restore it from a backup"):
        ledger.open(f"sqlite:///{path}")
