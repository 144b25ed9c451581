"""A database that takes no writes for a while, as at a failover: who works waits, and nothing is lost."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from postgres_server import PostgresServer

import ledger
from cli.worker import Work, Worker
from projections import Runs, lag


@contextmanager
def read_only(server: PostgresServer) -> Iterator[None]:
    """Let the server take no writes in the block, in sessions that are open too."""
    if not server.is_ours:
        pytest.skip("another server's settings are not for tests to change")
    with psycopg.connect(server.url, options="-c default_transaction_read_only=off", autocommit=True) as owner:
        try:
            _set(owner, server, "on")
            yield
        finally:
            _set(owner, server, "off")


def _set(owner: "psycopg.Connection[tuple[object, ...]]", server: PostgresServer, wanted: str) -> None:
    owner.execute(f"ALTER SYSTEM SET default_transaction_read_only = {wanted}".encode())
    owner.execute("SELECT pg_reload_conf()")
    until = time.monotonic() + 10
    while time.monotonic() < until:
        with psycopg.connect(server.url) as other:
            if other.execute("SHOW default_transaction_read_only").fetchone() == (wanted,):
                return
        time.sleep(0.01)
    raise AssertionError("the server did not take the setting")


def test_worker_when_writes_are_refused_for_a_while(postgres_server: PostgresServer, postgres_url: str) -> None:
    """What a worker finished meanwhile counts once writes are taken again, and it goes on with the next run."""
    handled = threading.Event()
    may_end = threading.Event()

    def handle(work: Work) -> None:
        handled.set()
        may_end.wait(30)

    with ledger.open(postgres_url, migrate=True) as log:
        run_ids = [log.enqueue("test").id for _ in range(2)]
        worker = Worker(log, {"test": handle})
        thread = threading.Thread(target=worker.run, daemon=True)
        thread.start()
        assert handled.wait(30)
        with read_only(postgres_server):
            may_end.set()
            with pytest.raises(ledger.StoreReadOnly):
                log.enqueue("test")
            time.sleep(1)  # in which the worker is refused as well
            assert thread.is_alive()
            assert "running" == log.state(run_ids[0]).status

        until = time.monotonic() + 60
        while not all(log.state(run_id).is_terminal for run_id in run_ids) and time.monotonic() < until:
            time.sleep(0.05)
        worker.stop()
        thread.join(30)

        assert ["completed"] * 2 == [log.state(run_id).status for run_id in run_ids]
        assert [["enqueued", "started", "completed"]] * 2 == [
            [event.type for event in log.read(run_id)] for run_id in run_ids
        ]


def test_runs_when_writes_were_refused_for_a_while(
    postgres_server: PostgresServer, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads go on, from the log; afterwards they write again what they fold."""
    monkeypatch.setattr("projections.reader._REFUSED_S", 0.2)
    with ledger.open(postgres_url, migrate=True) as log:
        runs = Runs(log)
        log.enqueue("test")
        with read_only(postgres_server):
            assert 1 == runs.count()
        assert 1 == lag(log).events_behind

        time.sleep(0.3)

        assert 1 == runs.count()
        assert 0 == lag(log).events_behind
