"""Reads another system's SQLite file without changing it, row by row, whatever columns its version had."""

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click

Row = dict[str, Any]


class SourceFile:
    """A SQLite file, opened for reading.

    Args:
        path: The file.

    Raises:
        ClickException: when it is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
            self._connection.row_factory = sqlite3.Row
            self._connection.text_factory = lambda raw: raw.decode(errors="replace")
            self._tables = {row[0] for row in self._connection.execute("SELECT name FROM sqlite_schema")}
        except sqlite3.Error as exc:
            raise click.ClickException(f"{path} cannot be read: {exc}. Name a SQLite file.") from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def require(self, table: str, columns: Sequence[str]) -> None:
        """Check that a table is there with these columns.

        Raises:
            ClickException: when this is another system's file.
        """
        missing = (
            [table] if table not in self._tables else [name for name in columns if name not in self.columns(table)]
        )
        if missing:
            raise click.ClickException(
                f"{self.path} has no {missing[0]!r}: it is not the database of this system. Look with"
                f" `sqlite3 {self.path} .schema`."
            )

    def columns(self, table: str) -> set[str]:
        return {row[1] for row in self._connection.execute(f'PRAGMA table_info("{table}")')}

    def rows(self, table: str, *, order_by: str, where: str = "", values: Sequence[object] = ()) -> Iterator[Row]:
        """Give rows in an order; none when there is no such table. Table and columns are names of this package."""
        if table not in self._tables:
            return
        condition = f'WHERE "{where}" = ?' if where else ""
        query = f'SELECT * FROM "{table}" {condition} ORDER BY {order_by}'  # noqa: S608 - our own words only
        for row in self._connection.execute(query, values):
            yield dict(row)
