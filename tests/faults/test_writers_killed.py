"""What was acknowledged is there, whatever dies: writers killed, servers stopped, backends terminated."""

import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psycopg
import pytest
from postgres_server import PostgresServer, running_server

import ledger
from projections import verify

WRITER = """
import sys
import ledger

url, run_id, shard = sys.argv[1], sys.argv[2], int(sys.argv[3])
with ledger.open(url) as log:
    number = 0
    while True:
        name = f"{sys.argv[4]}-{shard}-{number}"
        assert 1 == log.append_results(run_id, [{"testId": name, "status": "passed"}], shard=shard)
        print(name, flush=True)
        number += 1
"""


def recorded_tests(log: ledger.Ledger, run_id: str) -> Counter[str]:
    """Count each test of a run's results, after checking that versions are dense."""
    events = list(log.read(run_id))
    assert list(range(1, len(events) + 1)) == [event.version for event in events]
    return Counter(r["testId"] for e in events if e.type == "shard_result_appended" for r in e.data.results)


def test_append_when_writers_are_killed(shared_url: str) -> None:
    """Writers killed with SIGKILL at random points: what they acknowledged is there, nothing twice, the rows equal."""
    chance = random.Random(7)
    acknowledged: list[str] = []
    with ledger.open(shared_url, migrate=True) as log:
        run = log.enqueue("test", shard_count=4)
        log.start(run.id, worker="w")
        for round_number in range(5):
            writers = [
                subprocess.Popen(
                    [sys.executable, "-c", WRITER, shared_url, run.id, str(shard), str(round_number)],
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=Path(__file__).parents[2],
                )
                for shard in range(4)
            ]
            for writer in writers:
                assert writer.stdout is not None
                acknowledged.append(writer.stdout.readline())
            for writer in writers:
                time.sleep(chance.uniform(0, 0.15))
                writer.kill()
            acknowledged += [line for writer in writers for line in writer.communicate()[0].splitlines(keepends=True)]

        counted = recorded_tests(log, run.id)

        whole = {line.strip() for line in acknowledged if line.endswith("\n")}  # a line cut short was not said
        assert len(whole) >= 20
        assert set() == whole - set(counted)
        assert {1} == set(counted.values())
        assert verify(log)


def write_through_faults(url: str, run_id: str, *, stop: threading.Event, shards: int = 4) -> Counter[str]:
    """Append from several threads until told to stop, settling what is unknown; count what is committed."""
    committed: Counter[str] = Counter()
    unknown = Counter[str]()
    lock = threading.Lock()

    def write(shard: int) -> None:
        log: ledger.Ledger | None = None
        number = 0
        while not stop.is_set():
            name, number = f"{shard}-{number}", number + 1
            pending: ledger.OutcomeUnknown | None = None
            while True:
                try:
                    if log is None:
                        log = ledger.open(url)
                    if pending is None:
                        log.append_results(run_id, [{"testId": name, "status": "passed"}], shard=shard)
                    else:
                        log.resolve(pending)
                    break
                except ledger.OutcomeUnknown as error:
                    pending = error
                    with lock:
                        unknown[name] += 1
                except ledger.StoreUnavailable:
                    time.sleep(0.02)
            with lock:
                committed[name] += 1
        if log is not None:
            log.close()

    threads = [threading.Thread(target=write, args=(shard,)) for shard in range(shards)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads)
    return committed


@pytest.fixture
def own_server() -> "PostgresServer":  # type: ignore[misc]
    """A server of the test's own, so that stopping it disturbs no other."""
    with running_server() as server:
        if not server.is_ours:
            pytest.skip("the server that RUNFOLD_TEST_POSTGRES names cannot be stopped by a test")
        yield server


def test_append_when_postgres_is_stopped_at_once(own_server: PostgresServer) -> None:
    """PostgreSQL stopped with -m immediate under load: what is unknown settles, nothing is lost, nothing is doubled."""
    url = own_server.create_database()
    with ledger.open(url, migrate=True) as log:
        run = log.enqueue("test", shard_count=4)
        log.start(run.id, worker="w")
    stop = threading.Event()

    def trouble() -> None:
        for _ in range(4):
            time.sleep(0.5)
            own_server.restart("immediate")
        time.sleep(0.5)
        stop.set()

    troubling = threading.Thread(target=trouble)
    troubling.start()
    committed = write_through_faults(url, run.id, stop=stop)
    troubling.join()

    with ledger.open(url) as log:
        assert len(committed) > 100
        assert committed == recorded_tests(log, run.id)
        assert verify(log)


def test_append_when_backends_are_terminated(postgres_url: str) -> None:
    """Backends terminated under load: what is unknown settles, nothing is lost, nothing is doubled."""
    with ledger.open(postgres_url) as log:
        run = log.enqueue("test", shard_count=4)
        log.start(run.id, worker="w")
    stop = threading.Event()

    def trouble() -> None:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            for _ in range(20):
                time.sleep(0.1)
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < 0.5"
                )
        stop.set()

    troubling = threading.Thread(target=trouble)
    troubling.start()
    committed = write_through_faults(postgres_url, run.id, stop=stop)
    troubling.join()

    with ledger.open(postgres_url) as log:
        assert len(committed) > 100
        assert committed == recorded_tests(log, run.id)
