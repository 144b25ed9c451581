"""Access tokens: what they look like, what they allow, and until when.

A token is `rf_`, 32 random bytes and a checksum, all in letters and digits. The checksum lets a scanner of leaked
secrets, and the server, tell a token from a typo without asking anybody. What is stored is its SHA-256: with 256 random
bits there is nothing to guess, so a slow hash would only make every request slow.
"""

import hashlib
import secrets
import zlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NewType, Protocol

import msgspec

from ledger import limits
from ledger.errors import InvalidInput
from ledger.run.values import check_text, check_time

if TYPE_CHECKING:
    from ledger.store import Store

Secret = NewType("Secret", str)
"""A token as its bearer has it. It is never logged, stored or shown again."""

PREFIX: Final = "rf_"
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_CHARS: Final = 43
_CHECK_CHARS: Final = 6
_PROJECTS_MAX: Final = 100


class Scope(StrEnum):
    """What a token lets its bearer do, in the projects that it is bound to."""

    RUNS_READ = "runs:read"
    """See runs, their history, results and logs, and follow one."""
    RUNS_WRITE = "runs:write"
    """Enqueue runs, work on them and end them."""
    EVENTS_READ = "events:read"
    """Read and follow the log of many runs at once."""
    ADMIN = "admin"
    """All of these, and what erases or settles other people's work."""


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """One token, without its secret.

    Attributes:
        token_id: Names it in commands and logs.
        name: Whose it is; becomes the actor of what it writes.
        projects: Those that it is bound to; None is every project, and runs of none.
        expires_at: From when on it does not work; None is never.
        revoked_at: When it was taken back.
    """

    token_id: str
    name: str
    scopes: tuple[Scope, ...]
    projects: tuple[str, ...] | None
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def is_active(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class TokenTable(Protocol):
    """Where tokens are kept: a table beside the log."""

    def add(self, token: Token, secret_hash: str) -> None:
        """Keep a new token."""

    def find(self, secret_hash: str) -> Token | None:
        """Find a token by its secret, whether or not it still works."""

    def list(self) -> Sequence[Token]:
        """Give all tokens, oldest first."""

    def end(self, token_id: str, *, expires_at: datetime | None, revoked_at: datetime | None) -> bool:
        """Let a token end earlier; False when there is none that is not revoked."""


def open_token_table(store: "Store") -> TokenTable:
    """Give the tokens that lie beside a log.

    Raises:
        InvalidInput: when the log is in memory, where nobody else could be given one.
    """
    scheme = store.url.partition(":")[0]
    if scheme == "sqlite":
        from cli.http.token_tables import SqliteTokens

        return SqliteTokens(store)
    if scheme in ("postgresql", "postgres"):
        from cli.http.token_tables import PostgresTokens

        return PostgresTokens(store)
    raise InvalidInput("url", f"{store.url!r} keeps no tokens: sqlite:///path and postgresql://… do.")


def new_token(
    *,
    name: str,
    scopes: Sequence[str],
    projects: Sequence[str] | None,
    expires_at: datetime | None,
    now: datetime,
) -> tuple[Token, Secret]:
    """Make a token and its secret.

    Raises:
        InvalidInput: when the name, a scope, a project or the time is none.
    """
    unknown = [scope for scope in scopes if scope not in tuple(Scope)]
    if unknown or not scopes:
        raise InvalidInput("scopes", f"{list(scopes)} must name at least one of: {', '.join(Scope)}.")
    if projects is not None and not 1 <= len(projects) <= _PROJECTS_MAX:
        raise InvalidInput("projects", f"has {len(projects)} names; 1 to {_PROJECTS_MAX} are allowed, or all.")
    for project in projects or ():
        check_text(project, field="projects", chars_max=limits.NAME_CHARS_MAX)
    if expires_at is not None and check_time(expires_at, field="expires_at") <= now:
        raise InvalidInput("expires_at", f"{expires_at} has passed.")
    token = Token(
        token_id=f"tok_{secrets.token_hex(8)}",
        name=check_text(name, field="name", chars_max=limits.NAME_CHARS_MAX),
        scopes=tuple(scope for scope in Scope if scope in scopes),
        projects=None if projects is None else tuple(sorted(set(projects))),
        created_at=now,
        expires_at=expires_at,
    )
    return token, _new_secret()


def successor(token: Token, *, now: datetime) -> tuple[Token, Secret]:
    """Make the token that takes over from another: as much allowed, for as long as that one was given."""
    lasts: timedelta | None = None if token.expires_at is None else token.expires_at - token.created_at
    return new_token(
        name=token.name,
        scopes=token.scopes,
        projects=token.projects,
        expires_at=None if lasts is None else now + lasts,
        now=now,
    )


def is_wellformed(secret: str) -> bool:
    """Tell whether a text can be a token at all: its form and its checksum."""
    if len(secret) != len(PREFIX) + _RANDOM_CHARS + _CHECK_CHARS or not secret.startswith(PREFIX):
        return False
    body = secret[len(PREFIX) : -_CHECK_CHARS]
    return secret.isascii() and body.isalnum() and secrets.compare_digest(_checksum(body), secret[-_CHECK_CHARS:])


def hash_of(secret: str) -> str:
    """Give the hash under which a token is stored."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _new_secret() -> Secret:
    body = _written(int.from_bytes(secrets.token_bytes(32)), _RANDOM_CHARS)
    return Secret(f"{PREFIX}{body}{_checksum(body)}")


def _checksum(body: str) -> str:
    return _written(zlib.crc32(body.encode()), _CHECK_CHARS)


def _written(number: int, chars: int) -> str:
    digits = []
    for _ in range(chars):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
