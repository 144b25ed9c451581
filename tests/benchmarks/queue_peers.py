"""Who takes jobs from a queue and does them, doing nothing: the ledger, a plain table, and other queues.

Each peer is used as its own documentation says, with as much durability as the ledger has. What another library needs
is imported by the process that uses it, so that the rest of the benchmarks does without (`uv sync --group bench`).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, Protocol

import psycopg

import ledger
from ledger.envelope import SALT_BYTES
from ledger.events import RunId
from ledger.ids import new_event_ids, new_run_id, new_salts
from ledger.limits import TASKS_PER_CLAIM_MAX
from ledger.run.codec import to_new_events
from ledger.run.events import Enqueued
from ledger.store import Appended, AppendRequest, exactly
from tests.benchmarks.databases import connect_sqlite
from tests.benchmarks.work import NOW

BATCH = 10
WARM_UPS = 20
"""Times that each worker takes jobs before the race: connections are there then, and statements planned for good."""
_EMPTY_LOOKS = 3
"""Looks that find nothing before a worker ends: one may find only jobs that others are just taking."""


class Finish(NamedTuple):
    """What one worker did.

    Attributes:
        begun: When it could begin, by the monotonic clock.
        ended: When its last job was done.
        jobs: How many it did from then to then.
        warm_ups: How many it did before.
    """

    begun: float
    ended: float
    jobs: int
    warm_ups: int = 0


class QueuePeer(Protocol):
    """A queue; each method is called in a process of its own."""

    jobs_per_warm_up: int

    def prepare(self, url: str) -> None:
        """Make what it needs in an empty database."""

    def fill(self, url: str, jobs: int) -> None: ...

    def work(self, url: str, name: str, ready: Callable[[], None]) -> Finish:
        """Do jobs until none is left.

        Args:
            url: Where.
            name: Of the worker.
            ready: Returns when all workers are ready; called once.
        """


def _until_empty(step: Callable[[], int], ready: Callable[[], None]) -> Finish:
    """Take steps, each of which does some jobs and gives how many."""
    warm_ups = sum(step() for _ in range(WARM_UPS))
    ready()
    begun = ended = time.monotonic()
    jobs = empty_looks = 0
    while empty_looks < _EMPTY_LOOKS:
        count = step()
        if count:
            jobs += count
            ended = time.monotonic()
        empty_looks = 0 if count else empty_looks + 1
    return Finish(begun, ended, jobs, warm_ups)


def _from_first_to_last(times: Sequence[float]) -> Finish:
    """Leave out what a framework does before its first job and after its last."""
    return Finish(times[0], times[-1], len(times)) if times else Finish(float("inf"), float("-inf"), 0)


# --- ours -----------------------------------------------------------------------------------------------------------


def enqueue_runs(log: ledger.Ledger, count: int) -> None:
    """Enqueue runs, many in one commit."""
    for start in range(0, count, 1_000):
        results = log.store.append_all([_enqueuing() for _ in range(min(1_000, count - start))])
        assert all(isinstance(result, Appended) for result in results)


def _enqueuing() -> AppendRequest:
    run_id = RunId(new_run_id())
    events = to_new_events(
        [Enqueued(kind="test", project="web", enqueued_at=NOW)],
        run_id=run_id,
        recorded_at=NOW,
        event_ids=new_event_ids(1),
        salts=new_salts(1, size_bytes=SALT_BYTES),
    )
    return AppendRequest(run_id, exactly(0), events)


class Ours:
    """Runfold: a run each."""

    jobs_per_warm_up = 1

    def prepare(self, url: str) -> None:
        ledger.open(url, migrate=True).close()

    def fill(self, url: str, jobs: int) -> None:
        with ledger.open(url) as log:
            enqueue_runs(log, jobs)

    def work(self, url: str, name: str, ready: Callable[[], None]) -> Finish:
        with ledger.open(url) as log:
            return _until_empty(lambda: self._step(log, name), ready)

    def _step(self, log: ledger.Ledger, name: str) -> int:
        leases = log.claim(name, kinds=["test"])
        for lease in leases:
            log.succeed(lease)
        return len(leases)


class OursInBatches(Ours):
    """Runfold: ten runs are taken, and said to be done, at once."""

    jobs_per_warm_up = BATCH

    def _step(self, log: ledger.Ledger, name: str) -> int:
        leases = log.claim(name, kinds=["test"], limit=BATCH)
        outcomes = log.succeed_all(leases) if leases else []
        assert not any(isinstance(outcome, Exception) for outcome in outcomes), outcomes
        return len(leases)


def claim_all(log: ledger.Ledger, name: str) -> list[ledger.Lease]:
    """Take whatever waits."""
    leases: list[ledger.Lease] = []
    while taken := log.claim(name, kinds=["test"], limit=TASKS_PER_CLAIM_MAX):
        leases += taken
    return leases


# --- a plain table --------------------------------------------------------------------------------------------------

_RAW_COLUMNS = "kind TEXT NOT NULL, state TEXT NOT NULL, worker TEXT, deadline BIGINT, payload TEXT NOT NULL"
_RAW_INDEX = "CREATE INDEX jobs_waiting ON jobs (kind, id) WHERE state = 'waiting'"
_RAW_PAYLOAD = '{"kind": "test", "project": "web"}'
_RAW_FILL = "INSERT INTO jobs (kind, state, payload) SELECT 'test', 'waiting', {0} FROM {1}"
_RAW_CLAIM = """
UPDATE jobs
SET state = 'running', worker = {0}, deadline = {deadline}
WHERE id = (
    SELECT id FROM jobs WHERE kind = {1} AND state = 'waiting' ORDER BY id LIMIT 1 {2}
)
RETURNING id, payload
"""


class RawSqliteQueue:
    """Two UPDATEs on a plain table through apsw."""

    jobs_per_warm_up = 1

    def prepare(self, url: str) -> None:
        connection = connect_sqlite(url)
        connection.execute(f"CREATE TABLE jobs (id INTEGER PRIMARY KEY, {_RAW_COLUMNS}); {_RAW_INDEX}")
        connection.close()

    def fill(self, url: str, jobs: int) -> None:
        connection = connect_sqlite(url)
        series = "(WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?2) SELECT i FROM n)"
        connection.execute(_RAW_FILL.format("?1", series), (_RAW_PAYLOAD, jobs))
        connection.close()

    def work(self, url: str, name: str, ready: Callable[[], None]) -> Finish:
        connection = connect_sqlite(url)
        claim = _RAW_CLAIM.format("?1", "?2", "", deadline="?3")

        def step() -> int:
            row = connection.execute(claim, (name, "test", round(time.time() * 1_000) + 60_000)).fetchone()
            if row is None:
                return 0
            connection.execute("UPDATE jobs SET state = 'done', deadline = NULL WHERE id = ?", (row[0],))
            return 1

        finish = _until_empty(step, ready)
        connection.close()
        return finish


class RawPostgresQueue:
    """Two UPDATEs on a plain table through psycopg."""

    jobs_per_warm_up = 1

    def prepare(self, url: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                f"CREATE TABLE jobs (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, {_RAW_COLUMNS})".encode()
            )
            connection.execute(_RAW_INDEX.encode())

    def fill(self, url: str, jobs: int) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_RAW_FILL.format("%s::text", "generate_series(1, %s)").encode(), (_RAW_PAYLOAD, jobs))

    def work(self, url: str, name: str, ready: Callable[[], None]) -> Finish:
        claim = _RAW_CLAIM.format("%s", "%s", "FOR UPDATE SKIP LOCKED", deadline="%s").encode()
        with psycopg.connect(url, autocommit=True) as connection:

            def step() -> int:
                terms = (name, round(time.time() * 1_000) + 60_000, "test")
                row = connection.execute(claim, terms, prepare=True).fetchone()
                if row is None:
                    return 0
                connection.execute(
                    "UPDATE jobs SET state = 'done', deadline = NULL WHERE id = %s", (row[0],), prepare=True
                )
                return 1

            return _until_empty(step, ready)


# --- other queues ---------------------------------------------------------------------------------------------------


class Procrastinate:
    """procrastinate, with ten jobs at once in each worker."""

    jobs_per_warm_up = 0

    def prepare(self, url: str) -> None:
        async def prepare() -> None:
            app, _ = self._app(url, [])
            async with app.open_async():
                await app.schema_manager.apply_schema_async()

        asyncio.run(prepare())

    def fill(self, url: str, jobs: int) -> None:
        async def fill() -> None:
            app, task = self._app(url, [])
            async with app.open_async():
                await task.batch_defer_async(*[{} for _ in range(jobs)])

        asyncio.run(fill())

    def work(self, url: str, name: str, ready: Callable[[], None]) -> Finish:
        times: list[float] = []

        async def work() -> None:
            app, _ = self._app(url, times)
            async with app.open_async():
                ready()
                await app.run_worker_async(
                    name=name, concurrency=BATCH, wait=False, listen_notify=False, install_signal_handlers=False
                )

        asyncio.run(work())
        return _from_first_to_last(times)

    @staticmethod
    def _app(url: str, times: list[float]) -> tuple[Any, Any]:
        import procrastinate

        logging.getLogger("procrastinate").setLevel(logging.ERROR)
        app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url))

        @app.task(name="job")
        async def job() -> None:
            times.append(time.monotonic())

        return app, job


class Pgqueuer:
    """pgqueuer, which takes ten jobs at once."""

    jobs_per_warm_up = 0

    def prepare(self, url: str) -> None:
        asyncio.run(self._with_queries(url, lambda queries: queries.install()))

    def fill(self, url: str, jobs: int) -> None:
        asyncio.run(self._with_queries(url, lambda queries: queries.enqueue(["job"] * jobs, [None] * jobs, [0] * jobs)))

    def work(self, url: str, name: str, ready: Callable[[], None]) -> Finish:
        from pgqueuer.db import PsycopgDriver
        from pgqueuer.qm import QueueManager
        from pgqueuer.queries import Queries
        from pgqueuer.types import QueueExecutionMode

        logging.getLogger("pgqueuer").setLevel(logging.ERROR)
        times: list[float] = []

        async def work() -> None:
            async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
                manager = QueueManager(Queries(PsycopgDriver(connection)))

                @manager.entrypoint("job")
                async def job(_: Any) -> None:
                    times.append(time.monotonic())

                ready()
                await manager.run(dequeue_timeout=timedelta(seconds=1), batch_size=BATCH, mode=QueueExecutionMode.drain)

        asyncio.run(work())
        return _from_first_to_last(times)

    @staticmethod
    async def _with_queries(url: str, use: Callable[[Any], Any]) -> None:
        from pgqueuer.db import PsycopgDriver
        from pgqueuer.queries import Queries

        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await use(Queries(PsycopgDriver(connection)))


class Dbos:
    """dbos: a workflow each, fifty at once in each worker, and a look for more fifty times a second."""

    jobs_per_warm_up = 0

    def prepare(self, url: str) -> None:
        dbos = self._launch(url, "prepare", [])
        dbos.destroy()

    def fill(self, url: str, jobs: int) -> None:
        from dbos import DBOSClient

        client = DBOSClient(system_database_url=url)
        for _ in range(jobs):
            client.enqueue({"workflow_name": "job", "queue_name": "jobs", "app_version": "1"})
        client.destroy()

    def work(self, url: str, name: str, ready: Callable[[], None]) -> Finish:
        times: list[float] = []
        ready()
        dbos = self._launch(url, name, times)
        while dbos.list_workflows(status=["ENQUEUED", "PENDING"], limit=1):
            time.sleep(0.2)
        dbos.destroy()
        return _from_first_to_last(times)

    @staticmethod
    def _launch(url: str, name: str, times: list[float]) -> Any:
        from dbos import DBOS

        DBOS(
            config={
                "name": "jobs",
                "system_database_url": url,
                "application_version": "1",
                "executor_id": name,
                "log_level": "ERROR",
            }
        )

        @DBOS.workflow(name="job")
        def job() -> None:
            times.append(time.monotonic())

        DBOS.launch()
        DBOS.register_queue("jobs", worker_concurrency=50, polling_interval_sec=0.02)
        return DBOS


class Huey:
    """huey without its consumer, on a file as durable as the ledger's; a job is gone once it is taken."""

    jobs_per_warm_up = 1

    def prepare(self, url: str) -> None:
        self._open(url)

    def fill(self, url: str, jobs: int) -> None:
        huey, job = self._open(url)
        for _ in range(jobs):
            huey.enqueue(job.s())

    def work(self, url: str, name: str, ready: Callable[[], None]) -> Finish:
        huey, _ = self._open(url)

        def step() -> int:
            task = huey.dequeue()
            if task is None:
                return 0
            huey.execute(task)
            return 1

        return _until_empty(step, ready)

    @staticmethod
    def _open(url: str) -> tuple[Any, Any]:
        from huey import SqliteHuey

        logging.getLogger("huey").setLevel(logging.ERROR)
        huey = SqliteHuey("jobs", filename=url.removeprefix("sqlite:///"), fsync=True, results=False, timeout=120)

        @huey.task(name="job")
        def job() -> None:
            pass

        return huey, job


PEERS: dict[str, Callable[[], QueuePeer]] = {
    "ours": Ours,
    "ours, batches of 10": OursInBatches,
    "raw SQLite": RawSqliteQueue,
    "raw PostgreSQL": RawPostgresQueue,
    "procrastinate": Procrastinate,
    "pgqueuer, batches of 10": Pgqueuer,
    "dbos": Dbos,
    "huey": Huey,
}
