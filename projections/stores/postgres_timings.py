"""The tables of `timings` in PostgreSQL."""

from typing import cast

from ledger.store import Store
from ledger.stores.postgres import PostgresStore
from projections.stores.postgres_details import PostgresDetails
from projections.timings import LAYOUT, TIMINGS, TimingsState, restore


def open_tables(store: Store) -> PostgresDetails[TimingsState]:
    """Give the tables in the log's database."""
    return PostgresDetails(cast(PostgresStore, store), TIMINGS, LAYOUT, restore)
