"""Ledgers that an earlier release made: this one migrates them, and everything in them goes on.

The dumps of `release_6` were made by the release whose last migration is number 6. In each: a completed run with failed
tests, one that waits, one that is executed, one of three shards of which one is held, one aborted, one in the bin, one
purged; folded into the read model.
"""

from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import apsw
import psycopg
import pytest
from postgres_server import PostgresServer

import ledger
from ledger.run.events import Purged
from projections import Results, Runs, rebuild, verify
from projections.projector import outdated

HERE = Path(__file__).parent
SCHEMA = HERE.parents[1] / "schema"


@pytest.fixture(params=["sqlite", "postgres"])
def old_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A ledger as the earlier release left it."""
    dump = (HERE / "release_6" / f"{request.param}.sql").read_text()
    if request.param == "sqlite":
        with closing(apsw.Connection(str(tmp_path / "runs.db"))) as connection:
            connection.execute(dump)
        yield f"sqlite:///{tmp_path / 'runs.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    url = server.create_database()
    with psycopg.connect(url, autocommit=True) as connection_to_server:
        connection_to_server.execute(dump.encode())
    yield url
    server.drop_database(url)


def test_migrations_when_they_have_landed() -> None:
    """A migration that somebody may have applied stays as it is, to the byte: a change of it is a new one."""
    landed = [line.split() for line in (HERE / "landed_migrations.txt").read_text().splitlines()]

    assert [[sha256((SCHEMA / name).read_bytes()).hexdigest(), name] for _, name in landed] == landed


def test_open_when_an_earlier_release_made_it(old_url: str) -> None:
    """Its runs are there once their rows, of an earlier fold, are made anew; before that, reads say so."""
    with ledger.open(old_url, migrate=True) as log:
        runs = Runs(log)
        assert ["runs"] == outdated(log)
        with pytest.raises(ledger.SchemaMismatch, match="make them anew with `runfold projection rebuild runs`"):
            runs.list()

        rebuild(log)

        assert [] == outdated(log)
        before = [(run.kind, run.status, run.project) for run in runs.list().runs]
        counts = {status: runs.count(status=status) for status in ("queued", "running", "completed", "aborted")}

        assert [
            ("suite", "aborted", None),
            ("shards", "running", None),
            ("suite", "running", "p"),
            ("suite", "queued", "p"),
            ("suite", "completed", "p"),
        ] == before
        assert {"queued": 1, "running": 2, "completed": 1, "aborted": 1} == counts
        assert 5 == runs.count()
        finished = runs.list(status="completed").runs[0]
        assert [("T1", "passed"), ("T2", "failed")] == [
            (result.test_id, result.status) for result in Results(log).all_of_run(finished.id)
        ]
        assert verify(log)


def test_write_when_an_earlier_release_made_it(old_url: str) -> None:
    """Its keys, its tasks and its leases hold: what waits is claimed, what is held is completed, and keys go back."""
    with ledger.open(old_url, migrate=True) as log:
        held = log.find_by_exclusive_key("branch main", project="p")
        assert held is not None
        with pytest.raises(ledger.ExclusiveKeyTaken):
            log.enqueue("suite", project="p", exclusive_key="branch main")
        assert not log.enqueue(
            "suite", project="p", idempotency_key="github-1", exclusive_key="branch main", labels={"team": "a"}
        ).is_new
        (claimed,) = log.claim("w", kinds=["suite"])
        assert claimed.run_id == log.find_by_exclusive_key("branch next", project="p")

        log.succeed(claimed)
        log.complete(held)

        assert log.find_by_exclusive_key("branch main", project="p") is None
        assert log.find_by_exclusive_key("branch next", project="p") is None
        assert log.enqueue("suite", project="p", exclusive_key="branch main").is_new


def test_shards_when_an_earlier_release_began_them(old_url: str) -> None:
    """Shards that wait are worked off; the one whose worker died, in its only attempt, fails the run."""
    with ledger.open(old_url, migrate=True) as log:
        waiting = log.claim("w", kinds=["shards"], limit=10)
        run_id = waiting[0].run_id
        assert [1, 2] == [lease.shard for lease in waiting]
        assert all(log.succeed_all(waiting))
        assert 2 == log.state(run_id).shards_completed

        swept = log.sweep()

        assert [(run_id, 0)] == [(each.run_id, each.shard) for each in swept]
        assert "failed" == log.state(run_id).status
        assert [] == list(log.tasks(run_id=run_id))


def test_bin_when_an_earlier_release_filled_it(old_url: str) -> None:
    """What was deleted can be restored and purged; what was purged stays so."""
    with ledger.open(old_url, migrate=True) as log:
        rebuild(log)
        (binned,) = Runs(log).list(deleted="only").runs
        assert log.restore(binned.id)
        log.delete(binned.id)

        log.purge(binned.id)

        assert isinstance(list(log.read(binned.id))[-1].data, Purged)
        assert not log.enqueue("suite", idempotency_key="gone").is_new
        assert verify(log)
