"""Opens a ledger by its URL. Drivers are imported here, when one is needed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ledger.api import Ledger
from ledger.clock import Clock, utc_now
from ledger.errors import InvalidInput, StoreUnavailable
from ledger.run.profiles import Kind
from ledger.store import Store

if TYPE_CHECKING:
    from ledger.remote import RemoteLedger
    from ledger.stores.postgres import PostgresStore


def open(
    url: str,
    *,
    actor: str | None = None,
    kinds: Sequence[Kind] = (),
    migrate: bool | None = None,
    clock: Clock = utc_now,
    token: str | None = None,
) -> Ledger:
    """Open a ledger.

    Args:
        url: `sqlite:///relative/path.db`, `sqlite:////absolute/path.db`, `postgresql://user@host/database`,
            `https://host` of a `runfold serve`, or `memory:` for tests.
        actor: Who acts through it, unless `Ledger.bind` says otherwise.
        kinds: What kinds of runs declare.
        migrate: Whether to bring the tables up to this release first. None does so on SQLite, and on PostgreSQL
            leaves that to `runfold db migrate`, since a server is shared.
        clock: Tells the time, for tests.
        token: What a server asks for; None takes `RUNFOLD_TOKEN` of the environment.

    Raises:
        InvalidInput: when the URL is none of these.
        StoreUnavailable: when the database cannot be reached, or its driver is not installed.
        SchemaMismatch: when the tables are not those of this release.
        UnsafeStore: when the database would not keep what it acknowledges.
    """
    if url.startswith(("https://", "http://")):
        return _remote(url, token=token).bind(actor=actor)
    ledger = Ledger(open_store(url, migrate=migrate), kinds=kinds, clock=clock)
    return ledger if actor is None else ledger.bind(actor=actor)


def _remote(url: str, *, token: str | None) -> "RemoteLedger":
    try:
        from ledger.remote import RemoteLedger
    except ImportError as exc:
        raise StoreUnavailable(
            f"a ledger behind a server needs a client that is not installed ({exc}): pip install 'runfold[remote]'."
        ) from exc
    return RemoteLedger(url, token=token)


def open_store(url: str, *, migrate: bool | None = None) -> Store:
    """Open the store behind a URL; see `open`."""
    if url == "memory:":
        from ledger.stores.memory import MemoryStore

        return MemoryStore()
    if url.startswith("sqlite:///"):
        from ledger.stores.sqlite import SqliteStore

        return SqliteStore(sqlite_path(url), migrate=True if migrate is None else migrate)
    if url.startswith(("postgresql://", "postgres://")):
        return postgres_store(url, migrate=bool(migrate))
    raise InvalidInput("url", f"{url!r} is no ledger: sqlite:///path, postgresql://…, https://… or memory: is.")


def postgres_store(url: str, *, migrate: bool | None) -> "PostgresStore":
    """Open a PostgreSQL store; see `ledger.stores.postgres.PostgresStore`.

    Raises:
        StoreUnavailable: when the driver is not installed.
    """
    try:
        from ledger.stores.postgres import PostgresStore
    except ImportError as exc:
        raise StoreUnavailable(
            f"PostgreSQL needs a driver that is not installed ({exc}): pip install 'runfold[postgres]'."
        ) from exc
    return PostgresStore(url, migrate=migrate)


def sqlite_path(url: str) -> Path:
    """Give the file behind a `sqlite:///` URL.

    Raises:
        InvalidInput: when it names none.
    """
    path = url.removeprefix("sqlite:///")
    if not path or path.startswith(":"):
        raise InvalidInput("url", f"{url!r} names no file: sqlite:///runs.db does. For tests there is memory:")
    return Path(path)
