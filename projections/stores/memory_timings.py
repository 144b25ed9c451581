"""The tables of `timings` in memory."""

from typing import cast

from ledger.store import Store
from ledger.stores.memory import MemoryStore
from projections.stores.memory_details import MemoryDetails
from projections.timings import LAYOUT, TIMINGS, TimingsState, restore


def open_tables(store: Store) -> MemoryDetails[TimingsState]:
    """Give the tables beside a log in memory."""
    return MemoryDetails(cast(MemoryStore, store), TIMINGS, LAYOUT, restore)
