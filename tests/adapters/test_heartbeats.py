"""What keeping many leases costs: one statement, however many there are, on both databases."""

from collections.abc import Iterator
from contextlib import contextmanager

import apsw
import psycopg
import pytest

import ledger
from ledger import Lease, Ledger

COUNT = 1_000


@contextmanager
def seen_by_sqlite() -> Iterator[list[str]]:
    """Note the statements of every connection that is opened meanwhile."""
    seen: list[str] = []

    def note(connection: apsw.Connection) -> None:
        connection.trace_v2(apsw.SQLITE_TRACE_STMT, lambda told: seen.append(told["sql"]))

    apsw.connection_hooks.append(note)
    try:
        yield seen
    finally:
        apsw.connection_hooks.remove(note)


@contextmanager
def seen_by_postgres(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Note the statements that the driver is given."""
    seen: list[str] = []
    execute = psycopg.Cursor.execute

    def noted(self: psycopg.Cursor, query: object, *args: object, **options: object) -> object:
        seen.append(str(query))
        return execute(self, query, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(psycopg.Cursor, "execute", noted)
    yield seen


def held(log: Ledger) -> list[Lease]:
    log.enqueue_all([{"kind": "test"}] * COUNT)
    return [lease for _ in range(COUNT // 100) for lease in log.claim("w1", limit=100)]


def test_heartbeat_when_there_are_a_thousand_leases(
    shared_url: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker renews all its leases in one statement and one transaction, and hears what became of each."""
    is_postgres = shared_url.startswith("postgresql")
    with (
        seen_by_postgres(monkeypatch) if is_postgres else seen_by_sqlite() as seen,
        ledger.open(shared_url, migrate=True) as log,
    ):
        leases = held(log)
        log.abort(leases[7].run_id)
        log.request_abort(leases[8].run_id)
        log.heartbeat(leases)  # what a connection does first is done
        before = max(event.position for event in log.read_all())
        seen.clear()

        answers = log.heartbeat(leases)

        statements = [text for text in seen if text.strip().upper() not in ("BEGIN", "BEGIN IMMEDIATE", "COMMIT")]
        assert 1 == len([text for text in statements if "tasks" in text]), statements
        assert len(statements) <= 2
        assert COUNT - 1 == sum(answer.is_held for answer in answers)
        assert [leases[7].run_id] == [answer.run_id for answer in answers if not answer.is_held]
        assert [leases[8].run_id] == [answer.run_id for answer in answers if answer.abort_requested]
        assert before == max(event.position for event in log.read_all())
