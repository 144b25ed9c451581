"""Callbacks and deliveries: what is kept of them beside the log, and the port to where.

A delivery is keyed by the event that causes it and by where it goes, so it exists once however often the log is gone
through. Claiming one counts an attempt and moves its due time behind the attempt's end: a daemon that dies leaves it to
the next, and one that comes back late can settle it no more, since the count has gone on.
"""

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from cli.outbox.signing import new_secret
from ledger import limits
from ledger.errors import InvalidInput
from ledger.events import EventId, RunId
from ledger.run.values import check_callback_url, check_optional_text

if TYPE_CHECKING:
    from ledger.store import Store

OF_RUN: Final = "run"
"""The sink of a delivery to the URL that the run itself was enqueued with."""


class Callback(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to call when runs end.

    Attributes:
        callback_id: Names it in commands, and as a delivery's sink.
        project: Only runs of this project; None is all.
        kind: Only runs of this kind; None is all.
        secret: Signs its calls.
        after_position: Up to where the log was settled when it was made; what ended before does not concern it. What
            stood above that, because it waited for an earlier event to commit, does.
    """

    callback_id: str
    url: str
    project: str | None = None
    kind: str | None = None
    secret: str
    after_position: int = 0
    created_at: datetime

    def wants(self, *, kind: str, project: str | None, position: int) -> bool:
        return self.after_position < position and self.kind in (None, kind) and self.project in (None, project)


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One call that is to be made, or was.

    Attributes:
        event_id: The terminal event that causes it.
        sink: A callback's id, or `run`.
        version: Of the event.
        position: Likewise.
        attempts: Begun so far; of a claimed one, its number.
        due_at: Seconds since 1970: of its next attempt; of a settled one, when it was settled.
    """

    event_id: EventId
    sink: str
    run_id: RunId
    version: int
    position: int
    url: str
    state: str = "pending"
    attempts: int = 0
    due_at: float = 0.0
    last_error: str | None = None


class OutboxTable(Protocol):
    """Where callbacks, deliveries and the outbox's position are kept. Times are the database's."""

    def add_callback(self, callback: Callback) -> None:
        """Keep a callback; it concerns what ends from now on."""

    def callbacks(self) -> Sequence[Callback]:
        """Give all callbacks, oldest first."""

    def remove_callback(self, callback_id: str) -> bool:
        """Forget a callback and what waits for it; False when there is none."""

    def run_secret(self) -> str:
        """Give the secret that signs the callbacks that runs bring themselves; it is made at the first call."""

    def position(self) -> int:
        """Give the position up to which deliveries were made."""

    def head(self) -> int:
        """Give the position of the newest settled event: where `position` stands when nothing is left to look at.

        Never a position that nobody committed, as those may be up to which the log is settled.
        """

    def advance(self, *, past: int, to: int, deliveries: Sequence[Delivery], purged: Sequence[RunId]) -> bool:
        """Keep new deliveries and the new position at once, and forget those of purged runs.

        Returns:
            False when another daemon was first: nothing was written.
        """

    def claim(self, *, limit: int, lease_s: float) -> list[Delivery]:
        """Take deliveries that are due, the longest due first; nobody else gets them before the lease is over."""

    def settle(self, delivery: Delivery, *, state: str, delay_s: float, error: str | None) -> bool:
        """Say what became of a claimed delivery; False when it was claimed again meanwhile."""

    def list(self, *, state: str | None, limit: int) -> Sequence[Delivery]:
        """Give deliveries in a state, or all, newest first."""

    def count(self) -> dict[str, int]:
        """Count deliveries by state."""

    def backlog(self) -> dict[str, int]:
        """Count deliveries that are `pending`, and that have `failed`, without going through those that were made."""

    def retry(self, *, event_id: str | None, limit: int) -> int:
        """Let failed deliveries be tried anew, of one event or any, and give how many."""

    def prune(self, *, older_s: float, limit: int) -> int:
        """Forget deliveries that succeeded so long ago, and give how many."""


def open_outbox_table(store: "Store") -> OutboxTable:
    """Give the outbox that lies beside a log.

    Raises:
        InvalidInput: when the log is in memory, which ends with the process that would have to be called back.
    """
    scheme = store.url.partition(":")[0]
    if scheme == "sqlite":
        from cli.outbox.tables import SqliteOutbox

        return SqliteOutbox(store)
    if scheme in ("postgresql", "postgres"):
        from cli.outbox.tables import PostgresOutbox

        return PostgresOutbox(store)
    raise InvalidInput("url", f"{store.url!r} keeps no callbacks: sqlite:///path and postgresql://… do.")


def new_callback(url: str, *, project: str | None, kind: str | None, now: datetime) -> Callback:
    """Make a callback with a secret of its own.

    Raises:
        InvalidInput: when the URL, the project or the kind is none.
    """
    return Callback(
        callback_id=f"cb_{secrets.token_hex(8)}",
        url=check_callback_url(url, field="url"),
        project=check_optional_text(project, field="project", chars_max=limits.NAME_CHARS_MAX),
        kind=check_optional_text(kind, field="kind", chars_max=limits.NAME_CHARS_MAX),
        secret=new_secret(),
        created_at=now,
    )
