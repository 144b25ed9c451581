"""The table of access tokens on each database; the SQL is the same but for names and placeholders."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, cast

import msgspec

from cli.http.tokens import Scope, Token
from ledger.run.codec import timestamp
from ledger.store import Store


class SqliteTokens:
    """Tokens in a SQLite file."""

    def __init__(self, store: Store) -> None:
        from ledger.stores.sqlite import SqliteStore

        self._store = cast(SqliteStore, store)

    def add(self, token: Token, secret_hash: str) -> None:
        with self._store.writing() as connection:
            connection.execute(_SQLITE_ADD, _row(token, secret_hash))

    def find(self, secret_hash: str) -> Token | None:
        with self._store.reading() as connection:
            rows = list(connection.execute(_SQLITE_FIND, (secret_hash,)))
        return _token(rows[0]) if rows else None

    def list(self) -> Sequence[Token]:
        with self._store.reading() as connection:
            return [_token(row) for row in connection.execute(_SQLITE_LIST)]

    def end(self, token_id: str, *, expires_at: datetime | None, revoked_at: datetime | None) -> bool:
        with self._store.writing() as connection:
            return bool(list(connection.execute(_SQLITE_END, (_text(expires_at), _text(revoked_at), token_id))))


class PostgresTokens:
    """Tokens in a PostgreSQL database."""

    def __init__(self, store: Store) -> None:
        from ledger.stores.postgres import PostgresStore

        self._store = cast(PostgresStore, store)

    def add(self, token: Token, secret_hash: str) -> None:
        with self._store.transaction() as connection:
            connection.execute(_POSTGRES_ADD, _row(token, secret_hash))

    def find(self, secret_hash: str) -> Token | None:
        with self._store.transaction() as connection:
            row = connection.execute(_POSTGRES_FIND, (secret_hash,)).fetchone()
        return None if row is None else _token(row)

    def list(self) -> Sequence[Token]:
        with self._store.transaction() as connection:
            return [_token(row) for row in connection.execute(_POSTGRES_LIST)]

    def end(self, token_id: str, *, expires_at: datetime | None, revoked_at: datetime | None) -> bool:
        with self._store.transaction() as connection:
            ended = connection.execute(_POSTGRES_END, (_text(expires_at), _text(revoked_at), token_id))
            return ended.rowcount > 0


def _row(token: Token, secret_hash: str) -> tuple[str | None, ...]:
    return (
        token.token_id,
        token.name,
        secret_hash,
        " ".join(token.scopes),
        None if token.projects is None else msgspec.json.encode(token.projects).decode(),
        timestamp(token.created_at),
        _text(token.expires_at),
        _text(token.revoked_at),
    )


def _token(row: Sequence[Any]) -> Token:
    token_id, name, scopes, projects, created_at, expires_at, revoked_at = row
    return Token(
        token_id=token_id,
        name=name,
        scopes=tuple(Scope(scope) for scope in scopes.split()),
        projects=None if projects is None else msgspec.json.decode(projects, type=tuple[str, ...]),
        created_at=datetime.fromisoformat(created_at),
        expires_at=None if expires_at is None else datetime.fromisoformat(expires_at),
        revoked_at=None if revoked_at is None else datetime.fromisoformat(revoked_at),
    )


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else timestamp(moment)


_SQLITE_ADD: Final = """
INSERT INTO access_tokens (token_id, name, secret_hash, scopes, projects, created_at, expires_at, revoked_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_SQLITE_FIND: Final = """
SELECT token_id, name, scopes, projects, created_at, expires_at, revoked_at
FROM access_tokens
WHERE secret_hash = ?
"""
_SQLITE_LIST: Final = """
SELECT token_id, name, scopes, projects, created_at, expires_at, revoked_at
FROM access_tokens
ORDER BY created_at, token_id
"""
_SQLITE_END: Final = """
UPDATE access_tokens
SET expires_at = coalesce(?1, expires_at), revoked_at = coalesce(?2, revoked_at)
WHERE token_id = ?3
    AND revoked_at IS NULL
RETURNING token_id
"""

_POSTGRES_ADD: Final = """
INSERT INTO runfold.access_tokens (token_id, name, secret_hash, scopes, projects, created_at, expires_at, revoked_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
"""
_POSTGRES_FIND: Final = """
SELECT token_id, name, scopes, projects, created_at, expires_at, revoked_at
FROM runfold.access_tokens
WHERE secret_hash = %s
"""
_POSTGRES_LIST: Final = """
SELECT token_id, name, scopes, projects, created_at, expires_at, revoked_at
FROM runfold.access_tokens
ORDER BY created_at, token_id
"""
_POSTGRES_END: Final = """
UPDATE runfold.access_tokens
SET expires_at = coalesce(%s, expires_at), revoked_at = coalesce(%s, revoked_at)
WHERE token_id = %s
    AND revoked_at IS NULL
"""
