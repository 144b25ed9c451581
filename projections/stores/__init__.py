"""The tables of projections on each database. Drivers are imported when their database is used."""

from importlib import import_module
from typing import Any

from ledger.errors import InvalidInput
from ledger.store import Store
from projections.tables import DocumentTables, ResultTables, RunTables, TimingTables

_DATABASES = {"memory": "memory", "sqlite": "sqlite", "postgresql": "postgres", "postgres": "postgres"}


def open_run_tables(store: Store) -> RunTables:
    """Give the tables of `runs` that lie beside a log; see `_open`."""
    tables: RunTables = _open("runs", store)
    return tables


def open_result_tables(store: Store) -> ResultTables:
    """Give the tables of `results` that lie beside a log; see `_open`."""
    tables: ResultTables = _open("results", store)
    return tables


def open_document_tables(store: Store) -> DocumentTables:
    """Give the tables of `documents` that lie beside a log; see `_open`."""
    tables: DocumentTables = _open("documents", store)
    return tables


def open_timing_tables(store: Store) -> TimingTables:
    """Give the tables of `timings` that lie beside a log; see `_open`."""
    tables: TimingTables = _open("timings", store)
    return tables


def _open(subject: str, store: Store) -> Any:
    """Give the tables of a subject: `<database>_<subject>.py` has them.

    Raises:
        InvalidInput: when the store is none of this release's.
    """
    database = _DATABASES.get(store.url.partition(":")[0])
    if database is None:
        raise InvalidInput("store", f"{store.url!r} has no tables for projections: sqlite, postgresql and memory have.")
    return import_module(f"projections.stores.{database}_{subject}").open_tables(store)
