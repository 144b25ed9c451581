"""The source systems' way, small and faithful: rows that are read, changed and written back.

Each method does what the one of the source does, statement by statement, on a real database; what is wrong with it is
wrong here as well, which the tests of the defects show before they show that the ledger is without it.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg

TABLES = (
    """CREATE TABLE source_runs (
        id TEXT PRIMARY KEY, status TEXT NOT NULL, results TEXT NOT NULL, passed INTEGER NOT NULL,
        shard_count INTEGER NOT NULL, shards_completed INTEGER NOT NULL, finished_at TEXT)""",
    "CREATE TABLE source_logs (run_id TEXT NOT NULL, seq INTEGER NOT NULL, message TEXT NOT NULL)",
    "CREATE TABLE source_branches (branch TEXT, repo TEXT, status TEXT NOT NULL, UNIQUE (branch, repo))",
    "CREATE TABLE source_gates (host TEXT, version TEXT, kind TEXT, status TEXT, summary TEXT)",
)


class MutableRows:
    """One process's connection to the source system's tables.

    Args:
        connection: Commits each statement by itself.
        mark: How the driver writes a parameter.
    """

    def __init__(self, connection: Any, mark: str) -> None:
        self._connection = connection
        self._mark = mark
        self._log_seqs: dict[str, int] = {}  # the cache of the source's logger

    def do(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        cursor = self._connection.execute(sql.replace("?", self._mark), values)
        return [] if cursor.description is None else list(cursor.fetchall())

    def create(self, run_id: str, *, shard_count: int = 1, status: str = "running") -> None:
        self.do("INSERT INTO source_runs VALUES (?, ?, '[]', 0, ?, 0, NULL)", run_id, status, shard_count)

    def value(self, run_id: str, column: str) -> Any:
        rows = self.do(f"SELECT {column} FROM source_runs WHERE id = ?", run_id)
        return rows[0][0] if rows else None

    def results(self, run_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.value(run_id, "results") or "[]")
        return found

    def append_results(self, run_id: str, rows: list[dict[str, Any]]) -> int:
        """Splice rows into the text, in one statement: whatever the status, and whether there is such a run."""
        chunk = json.dumps(rows)
        self.do(
            "UPDATE source_runs SET results = CASE WHEN results = '[]' THEN ?"
            " ELSE substr(results, 1, length(results) - 1) || ',' || substr(?, 2) END WHERE id = ?",
            chunk,
            chunk,
            run_id,
        )
        return len(rows)

    def write_results(self, run_id: str, rows: list[dict[str, Any]]) -> None:
        self.do("UPDATE source_runs SET results = ? WHERE id = ?", json.dumps(rows), run_id)

    def write_status(self, run_id: str, status: str) -> None:
        self.do("UPDATE source_runs SET status = ? WHERE id = ?", status, run_id)

    def increment_passed(self, run_id: str, delta: int) -> None:
        self.do("UPDATE source_runs SET passed = passed + ? WHERE id = ?", delta, run_id)

    def increment_shards_completed(self, run_id: str) -> tuple[int, int]:
        before = self.value(run_id, "shards_completed")
        self.do(
            "UPDATE source_runs SET shards_completed = shards_completed + 1"
            " WHERE id = ? AND shards_completed < shard_count",
            run_id,
        )
        after = self.value(run_id, "shards_completed")
        return int(after > before), after

    def append_log(self, run_id: str, message: str) -> int:
        """Number a line from a cache that the largest number filled once."""
        if run_id not in self._log_seqs:
            [(largest,)] = self.do("SELECT coalesce(max(seq), 0) FROM source_logs WHERE run_id = ?", run_id)
            self._log_seqs[run_id] = largest
        self._log_seqs[run_id] += 1
        self.do("INSERT INTO source_logs VALUES (?, ?, ?)", run_id, self._log_seqs[run_id], message)
        return self._log_seqs[run_id]

    def mark_orphans_interrupted(self) -> int:
        """What a process does when it boots."""
        running = self.do("SELECT id FROM source_runs WHERE status = 'running'")
        self.do("UPDATE source_runs SET status = 'interrupted' WHERE status = 'running'")
        return len(running)


@contextmanager
def mutable_rows(url: str) -> Iterator[tuple[MutableRows, MutableRows]]:
    """Make the tables beside a ledger, and give two processes' connections to them."""
    if url.startswith("sqlite:///"):
        path = url.removeprefix("sqlite:///") + ".source"
        first, second = (sqlite3.connect(path, isolation_level=None) for _ in range(2))
        mark = "?"
    else:
        first, second = (psycopg.connect(url, autocommit=True) for _ in range(2))
        mark = "%s"
    with closing(first), closing(second):
        for table in TABLES:
            first.execute(table)
        yield MutableRows(first, mark), MutableRows(second, mark)
