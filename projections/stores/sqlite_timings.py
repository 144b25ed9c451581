"""The tables of `timings` in a SQLite file."""

from typing import cast

from ledger.store import Store
from ledger.stores.sqlite import SqliteStore
from projections.stores.sqlite_details import SqliteDetails
from projections.timings import LAYOUT, TIMINGS, TimingsState, restore


def open_tables(store: Store) -> SqliteDetails[TimingsState]:
    """Give the tables in the log's file."""
    return SqliteDetails(cast(SqliteStore, store), TIMINGS, LAYOUT, restore)
