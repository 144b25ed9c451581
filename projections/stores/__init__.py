"""The tables of projections on each database. Drivers are imported when their database is used."""

from ledger.errors import InvalidInput
from ledger.store import Store
from projections.tables import RunTables


def open_run_tables(store: Store) -> RunTables:
    """Give the tables of `runs` that lie beside a log.

    Raises:
        InvalidInput: when the store is none of this release's.
    """
    scheme = store.url.partition(":")[0]
    if scheme == "memory":
        from projections.stores.memory import open_tables as open_in_memory

        return open_in_memory(store)
    if scheme == "sqlite":
        from projections.stores.sqlite import open_tables as open_on_sqlite

        return open_on_sqlite(store)
    if scheme in ("postgresql", "postgres"):
        from projections.stores.postgres import open_tables as open_on_postgres

        return open_on_postgres(store)
    raise InvalidInput("store", f"{store.url!r} has no tables for projections: sqlite, postgresql and memory have.")
