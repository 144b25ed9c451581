"""Known defects of the source systems in writing: each is shown on a faithful model of their way, then not on ours."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from mutable_rows import MutableRows, mutable_rows
from racing import in_threads, race

import ledger
from ledger import Kind, Ledger, Policy, Purpose, RunNotFound
from projections import verify
from projections.systems.sentri import SentriRuns

UNKNOWN = "0192f3a0-0000-7000-8000-00000000ffff"
WORKER_OR_ABORTER = """
import sys, time
import ledger
from projections.systems.sentri import SentriRuns

url, run_id, shard = sys.argv[1], sys.argv[2], int(sys.argv[3])
with ledger.open(url) as log:
    runs = SentriRuns(log)
    print("ready", flush=True)
    sys.stdin.readline()
    if shard < 0:
        time.sleep(0.05)
        print(runs.abort(run_id).won)
    for test in range(shard * 50, shard * 50 + 50) if shard >= 0 else ():
        if runs.append_run_results(run_id, [{"testId": f"T{test}", "status": "passed", "_shardIndex": shard}]):
            print(f"T{test}")
"""
LOGGER = """
import sys
import ledger
from projections.systems.sentri import SentriRuns

with ledger.open(sys.argv[1]) as log:
    runs = SentriRuns(log)
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(25):
        runs.append_log(sys.argv[2], f"{sys.argv[3]}-{number}")
"""
FINALIZER = """
import sys
import ledger

with ledger.open(sys.argv[1]) as log:
    [lease] = log.claim("doomed", lease_s=0.5)
    assert "finalize" == lease.purpose
    print(lease.run_id, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def model(shared_url: str) -> Iterator[tuple[MutableRows, MutableRows]]:
    """Two processes of the source system."""
    with mutable_rows(shared_url) as connections:
        yield connections


@pytest.fixture
def log(shared_url: str) -> Iterator[Ledger]:
    kinds = [Kind(name="test_run", attempts_max=2, policy=Policy())]
    with ledger.open(shared_url, kinds=kinds, migrate=True) as opened:
        yield opened


@pytest.fixture
def runs(log: Ledger) -> SentriRuns:
    return SentriRuns(log)


def a_run(runs: SentriRuns, **columns: Any) -> str:
    return runs.create({"projectId": "P1", "type": "test_run", **columns})


def row_of(runs: SentriRuns, run_id: str) -> dict[str, Any]:
    row = runs.get_by_id(run_id)
    assert row is not None
    return row


# --- 1: an abort during concurrent appends ------------------------------------------------------------------------


def test_abort_during_appends_in_the_source(model: tuple[MutableRows, MutableRows]) -> None:
    """An abort that reads, extends and writes back loses the row that came between, and a later one doubles a test."""
    aborter, worker = model
    worker.create("R1")

    aborter.write_status("R1", "aborted")
    seen = aborter.results("R1")
    worker.append_results("R1", [{"testId": "T0", "status": "passed"}])
    skipped = [{"testId": test, "status": "skipped"} for test in ("T0", "T1")]
    aborter.write_results("R1", seen + skipped)
    worker.append_results("R1", [{"testId": "T1", "status": "passed"}])

    rows = [(row["testId"], row["status"]) for row in aborter.results("R1")]
    assert ("T0", "passed") not in rows
    assert [("T1", "skipped"), ("T1", "passed")] == [row for row in rows if row[0] == "T1"]


def test_abort_during_appends(shared_url: str, runs: SentriRuns) -> None:
    """Four processes append while a fifth aborts: every row that was acknowledged is there, and each test has one."""
    queue = [{"id": f"T{number}", "name": f"test {number}"} for number in range(200)]
    run = a_run(runs, shardCount=4, testQueue=queue)

    printed = race(WORKER_OR_ABORTER, [[shared_url, run, str(shard)] for shard in (-1, 0, 1, 2, 3)])

    assert "True\n" == printed[0]
    acknowledged = {test for output in printed[1:] for test in output.split()}
    rows = row_of(runs, run)["results"]
    assert acknowledged == {row["testId"] for row in rows if row["status"] == "passed"}
    assert sorted(test["id"] for test in queue) == sorted(row["testId"] for row in rows)
    assert 200 - len(acknowledged) == sum(row["status"] == "skipped" for row in rows)


# --- 2: an abort over a finished run ------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["completed", "failed"])
def test_abort_after_the_check_in_the_source(model: tuple[MutableRows, MutableRows], end: str) -> None:
    """An abort whose check passed just before a completion or failure writes over it."""
    aborter, worker = model
    worker.create("R1")

    assert "running" == aborter.value("R1", "status")
    worker.write_status("R1", end)
    aborter.write_status("R1", "aborted")

    assert "aborted" == worker.value("R1", "status")


@pytest.mark.parametrize("end", ["completed", "failed"])
def test_abort_after_the_check(runs: SentriRuns, end: str) -> None:
    """The same schedule: the abort is refused, and learns who was first."""
    run = a_run(runs)

    assert "running" == row_of(runs, run)["status"]
    assert runs.update(run, {"status": end, "error": "boom"})
    outcome = runs.abort(run)

    assert (False, end) == (outcome.won, outcome.winner.type if outcome.winner else None)
    assert end == row_of(runs, run)["status"]


def test_abort_when_it_races_with_endings(runs: SentriRuns, log: Ledger) -> None:
    """Of abort, completion and failure at once exactly one is in the log, in each of 15 rounds."""
    for _ in range(15):
        run = a_run(runs)
        ends = (
            lambda run=run: runs.abort(run).won,
            lambda run=run: runs.mark_run_completed_first_writer_wins(run),
            lambda run=run: runs.mark_run_failed_first_writer_wins(run),
        )
        won = in_threads(3, lambda number, ends=ends: ends[number]())

        terminal = [event.type for event in log.read(run) if event.type in ("aborted", "completed", "failed")]
        assert 1 == len(terminal) == won.count(True)
        assert ("aborted", "completed", "failed")[won.index(True)] == terminal[0] == row_of(runs, run)["status"]


# --- 3: a crash between the stats and the counter -----------------------------------------------------------------


def test_redelivery_in_the_source(model: tuple[MutableRows, MutableRows]) -> None:
    """A shard that is delivered again counts its stats again, and its second completion finalizes a running sibling."""
    worker, again = model
    worker.create("R1", shard_count=2)

    worker.increment_passed("R1", 5)  # then it dies, before the counter
    again.increment_passed("R1", 5)
    first = again.increment_shards_completed("R1")
    second = worker.increment_shards_completed("R1")  # the queue delivers the job once more

    assert 10 == worker.value("R1", "passed")
    assert ((1, 1), (1, 2)) == (first, second)  # "all done", and shard 1 has not begun


def test_redelivery(runs: SentriRuns, log: Ledger) -> None:
    """Rows are numbered and shards are named: what is delivered twice counts once, and nobody may finalize."""
    run = log.enqueue("test_run", shard_count=2).id
    [lease] = log.claim("w1", limit=1)
    rows = [{"testId": f"T{number}", "status": "passed"} for number in range(5)]

    for _ in range(2):
        assert 5 == log.append_results(run, rows, shard=lease.shard, first_sequence=0)
    outcomes = [runs.increment_shards_completed(run, lease.shard) for _ in range(2)]

    assert [(1, 1), (0, 1)] == outcomes
    assert (5, 1) == (row_of(runs, run)["passed"], row_of(runs, run)["shardsCompleted"])
    assert [Purpose.SHARD] == [other.purpose for other in log.claim("w2", limit=10)]
    assert verify(log)


# --- 4: the finalizer dies ----------------------------------------------------------------------------------------


def test_dead_finalizer_in_the_source(model: tuple[MutableRows, MutableRows]) -> None:
    """Once the caller that moved the counter to its cap is dead, nobody is told to finalize any more."""
    worker, other = model
    worker.create("R1", shard_count=2)
    worker.increment_shards_completed("R1")
    assert (1, 2) == worker.increment_shards_completed("R1")  # it is the finalizer, and dies here

    assert [(0, 2)] * 3 == [other.increment_shards_completed("R1") for _ in range(3)]
    assert "running" == other.value("R1", "status")


def test_dead_finalizer(shared_url: str, log: Ledger) -> None:
    """A finalizer is killed: its lease ends, another process takes over, and the run completes once."""
    run = log.enqueue("test_run", shard_count=2).id
    for lease in log.claim("w1", limit=2):
        log.succeed(lease)
    process = subprocess.Popen(
        [sys.executable, "-c", FINALIZER, shared_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert f"{run}\n" == process.stdout.readline()
    process.kill()
    process.communicate()

    deadline = time.monotonic() + 20
    taken = []
    while not taken and time.monotonic() < deadline:
        log.sweep()
        taken = log.claim("w2")
        time.sleep(0.05)

    assert [(run, Purpose.FINALIZE)] == [(lease.run_id, lease.purpose) for lease in taken]
    assert log.succeed(taken[0])
    assert 1 == [event.type for event in log.read(run)].count("completed")


# --- 5: numbers from a cache --------------------------------------------------------------------------------------


def test_log_numbers_in_the_source(model: tuple[MutableRows, MutableRows]) -> None:
    """Two processes that number lines from what they remember give the same number twice."""
    first, second = model

    numbers = [process.append_log("R1", "line") for process in (first, second, first, second)]

    assert [1, 2, 2, 3] == numbers
    assert len(set(numbers)) < len(first.do("SELECT seq FROM source_logs"))


def test_log_numbers_when_4_processes_write(shared_url: str, runs: SentriRuns, log: Ledger) -> None:
    """Four processes write 25 lines each: numbers are 1 to 100, and every process's lines stand in its order."""
    run = a_run(runs)

    race(LOGGER, [[shared_url, run, str(number)] for number in range(4)])

    lines = runs.get_logs(run)
    assert list(range(1, 101)) == [line.seq for line in lines]
    for process in range(4):
        own = [line.message for line in lines if line.message.startswith(f"{process}-")]
        assert [f"{process}-{number}" for number in range(25)] == own
    versions = [event.version for event in log.read(run)]
    assert list(range(1, len(versions) + 1)) == versions


# --- 6: the sweep at boot -----------------------------------------------------------------------------------------


def test_boot_sweep_in_the_source(model: tuple[MutableRows, MutableRows]) -> None:
    """A process that boots interrupts what another host is working on."""
    host, booting = model
    host.create("R1")
    host.append_results("R1", [{"testId": "T0", "status": "passed"}])

    assert 1 == booting.mark_orphans_interrupted()
    assert "interrupted" == host.value("R1", "status")


def test_boot_sweep(log: Ledger, runs: SentriRuns) -> None:
    """A process that boots touches neither a run with a young event nor a silent one with a lease: only the orphan."""
    orphan = a_run(runs)
    leased = log.enqueue("test_run", project="P2").id
    assert [leased] == [lease.run_id for lease in log.claim("w1", lease_s=60)]
    time.sleep(0.6)
    young = a_run(runs, projectId="P3")

    swept = SentriRuns(log).mark_orphans_interrupted(stale_s=0.5)

    assert (1, [orphan]) == (swept.count, swept.ids)
    statuses = {run: log.state(run).status for run in (orphan, leased, young)}
    assert {orphan: "interrupted", leased: "running", young: "running"} == statuses


# --- 8: history deleted for uniqueness ----------------------------------------------------------------------------


def test_uniqueness_in_the_source(model: tuple[MutableRows, MutableRows]) -> None:
    """A key over all rows refuses the next run of a branch until the finished one is deleted."""
    daemon, _ = model
    insert = "INSERT INTO source_branches VALUES (?, ?, ?)"
    daemon.do(insert, "feature", "/src/app", "completed")

    with pytest.raises(Exception, match=r"(?i)unique"):
        daemon.do(insert, "feature", "/src/app", "running")
    daemon.do("DELETE FROM source_branches WHERE branch = ? AND repo = ?", "feature", "/src/app")
    daemon.do(insert, "feature", "/src/app", "running")

    assert [("running",)] == daemon.do("SELECT status FROM source_branches")


def test_uniqueness(log: Ledger) -> None:
    """Only an active run holds the key: the next one begins, and the history of the finished one stays."""
    first = log.enqueue("build", exclusive_key="feature@/src/app", worker="w1").id
    log.complete(first)
    before = list(log.read(first))

    second = log.enqueue("build", exclusive_key="feature@/src/app", worker="w1").id

    with pytest.raises(ledger.ExclusiveKeyTaken):
        log.enqueue("build", exclusive_key="feature@/src/app")
    assert (before, "running") == (list(log.read(first)), log.state(second).status)


# --- 9: facts keyed outside the run -------------------------------------------------------------------------------


def test_gates_in_the_source(model: tuple[MutableRows, MutableRows]) -> None:
    """Gates of a version belong to every run of it: an old red one becomes the headline of a later run."""
    build, _ = model
    insert = "INSERT INTO source_gates VALUES ('h1', ?, ?, ?, ?)"
    build.do(insert, "0.10.2", "smoke", "failed", "login is down")
    build.do(insert, "0.10.2", "lint", "failed", "unused import")  # the second run's own gate

    headline = build.do("SELECT kind, summary FROM source_gates WHERE version = ? AND status = 'failed'", "0.10.2")[0]

    assert ("smoke", "login is down") == headline


def test_gates(log: Ledger) -> None:
    """Gates belong to their run: the second run of a version fails by its own, and the third has none."""
    runs = [log.enqueue("build", worker="w1").id for _ in range(3)]
    for run in runs:
        log.resolve_version(run, "0.10.2")
    log.finish_gate(runs[0], "smoke", "failed", summary="login is down")
    log.finish_gate(runs[1], "lint", "failed", summary="unused import")
    for run in runs[:2]:
        log.fail(run, error="a gate is red")

    summaries = [log.state(run).failure_summary for run in runs]
    assert ["smoke: login is down", "lint: unused import", None] == summaries
    assert {} == log.state(runs[2]).gates


# --- 10: an append to nothing -------------------------------------------------------------------------------------


def test_unknown_run_in_the_source(model: tuple[MutableRows, MutableRows]) -> None:
    """An append to a run that there is not reports success."""
    worker, _ = model

    assert 1 == worker.append_results("RUN-404", [{"testId": "T0", "status": "passed"}])
    assert [] == worker.do("SELECT id FROM source_runs")


def test_unknown_run(log: Ledger, runs: SentriRuns) -> None:
    """An append to a run that there is not is an error of the ledger, and 0 under Sentri's name; nothing is written."""
    with pytest.raises(RunNotFound):
        log.append_results(UNKNOWN, [{"testId": "T0", "status": "passed"}])

    assert 0 == runs.append_run_results(UNKNOWN, [{"testId": "T0", "status": "passed"}])
    assert 0 == runs.append_run_results("RUN-404", [{"testId": "T0", "status": "passed", "_shardIndex": 0}])
    assert [] == list(log.read_all())


def test_model_runs_on_both_databases(model: tuple[MutableRows, MutableRows], shared_url: str) -> None:
    """The model is no mock: its rows are where another connection finds them."""
    first, second = model
    first.create("R1")

    assert "running" == second.value("R1", "status")
    if shared_url.startswith("postgres"):
        with psycopg.connect(shared_url) as outside:
            assert ("running",) == outside.execute("SELECT status FROM source_runs").fetchone()
