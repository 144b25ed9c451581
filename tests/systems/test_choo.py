"""choo's own scenarios, with its numbers, on every store."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import ledger
from ledger import ExclusiveKeyTaken, InvalidInput, Ledger, RunNotFound
from projections.systems.choo import ChooRuns

REPO = "/src/app"
UNKNOWN = "0192f3a0-0000-7000-8000-0000000003e7"
APPENDER = """
import sys
import ledger
from projections.systems.choo import ChooRuns

with ledger.open(sys.argv[1]) as log:
    runs = ChooRuns(log)
    print("ready", flush=True)
    sys.stdin.readline()
    print(*[runs.append_event(sys.argv[2], "task.done", payload={"n": n}) for n in range(10)])
"""


@pytest.fixture
def runs(log: Ledger) -> ChooRuns:
    return ChooRuns(log)


def a_run(runs: ChooRuns, branch: str = "feature", *, repo: str = REPO, status: str = "pending") -> str:
    return runs.create_run(feature_branch=branch, repo_path=repo, status=status)


def test_create_and_get(runs: ChooRuns) -> None:
    """A run is found with the facts that it was made with; an unknown one is none."""
    run = runs.create_run(
        feature_branch="feature",
        repo_path=REPO,
        target_branch="develop",
        tasks_dir="specs/tasks",
        parallelism=4,
        daemon_version="1.2.3",
        config={"model": "x"},
    )

    shown = runs.get_run(run)

    assert shown is not None
    assert (run, "feature", REPO, "develop", "specs/tasks", "1.2.3", "pending", None) == tuple(
        shown[name]
        for name in (
            "id",
            "feature_branch",
            "repo_path",
            "target_branch",
            "tasks_dir",
            "daemon_version",
            "status",
            "started_at",
        )
    )
    assert runs.get_run(UNKNOWN) is None
    assert runs.get_run("01ARZ3NDEKTSV4RRFFQ69G5FAV") is None


def test_create_duplicate(runs: ChooRuns) -> None:
    """The same branch and repository is refused while a run is active; another branch or repository is fine."""
    first = a_run(runs)

    with pytest.raises(ExclusiveKeyTaken) as refusal:
        a_run(runs)

    assert first == refusal.value.active_run_id
    a_run(runs, "other")
    a_run(runs, repo="/src/lib")


def test_create_again_after_the_end(runs: ChooRuns) -> None:
    """A finished run is in nobody's way and keeps its history."""
    first = a_run(runs, status="running")
    runs.update_run_status(first, "completed")

    second = a_run(runs)

    assert second != first
    assert ["run.started", "run.completed"] == [event.type for event in runs.list_events(first).events]
    newest = runs.get_run_by_branch("feature", REPO)
    assert newest is not None
    assert second == newest["id"]


def test_get_by_branch_is_exact(runs: ChooRuns) -> None:
    """`feature` does not find `feature/test`."""
    a_run(runs, "feature/test")

    assert runs.get_run_by_branch("feature", REPO) is None
    assert runs.get_run_by_branch("feature/test", REPO) is not None


def test_get_active_by_branch(runs: ChooRuns) -> None:
    """Only a running run is one to attach to."""
    run = a_run(runs)
    assert runs.get_active_run_by_branch("feature", REPO) is None

    runs.update_run_status(run, "running")
    active = runs.get_active_run_by_branch("feature", REPO)
    assert active is not None
    assert run == active["id"]

    runs.update_run_status(run, "completed")
    assert runs.get_active_run_by_branch("feature", REPO) is None


def test_update_status_sets_times(runs: ChooRuns) -> None:
    """Running sets the start, completed sets the end, failed keeps its error."""
    run = a_run(runs)
    runs.update_run_status(run, "running")
    started = runs.get_run(run)
    runs.update_run_status(run, "completed")
    completed = runs.get_run(run)
    failed = a_run(runs, "other", status="running")
    runs.update_run_status(failed, "failed", "out of tokens")

    assert started is not None
    assert completed is not None
    assert (True, None) == (started["started_at"] is not None, started["completed_at"])
    assert completed["completed_at"] is not None
    shown = runs.get_run(failed)
    assert shown is not None
    assert ("failed", "out of tokens") == (shown["status"], shown["error"])
    with pytest.raises(RunNotFound):
        runs.update_run_status(UNKNOWN, "running")


def test_update_status_when_cancelled(runs: ChooRuns) -> None:
    """The job's own outcome does not overwrite a cancel that was first."""
    run = a_run(runs, status="running")
    assert runs.update_run_status(run, "cancelled", "stopped by user")

    late = runs.update_run_status(run, "failed", "context canceled")

    assert not late
    assert late.winner is not None
    assert "aborted" == late.winner.type
    shown = runs.get_run(run)
    assert shown is not None
    assert ("cancelled", "stopped by user") == (shown["status"], shown["error"])


def test_lists(runs: ChooRuns) -> None:
    """Two pending and one running are listed by status; pending and running of four are the incomplete ones."""
    pending = sorted([a_run(runs, "a"), a_run(runs, "b")])
    running = a_run(runs, "c", status="running")
    assert pending == [run["id"] for run in runs.list_runs_by_status("pending")]
    assert [running] == [run["id"] for run in runs.list_runs_by_status("running")]

    runs.update_run_status(running, "failed", "no")
    runs.update_run_status(pending[1], "running")
    runs.update_run_status(a_run(runs, "d", status="running"), "completed")

    assert pending == [run["id"] for run in runs.list_incomplete_runs()]
    assert ["pending", "running"] == [run["status"] for run in runs.list_incomplete_runs()]


def test_delete(runs: ChooRuns, log: Ledger) -> None:
    """A run goes with its 2 units and 2 events; what is left is its skeleton."""
    run = a_run(runs, status="running")
    units = [runs.create_unit(run, "one"), runs.create_unit(run, "two", status="running")]
    for _ in range(2):
        runs.append_event(run, "task.done", payload={"file": "secret.py"})

    assert runs.delete_run(run)

    assert [] == [event for each in (run, *units) for event in log.read(each) if event.data is not None][3:]
    assert "secret" not in repr([event.data for event in log.read(run)])
    assert not runs.delete_run(UNKNOWN)


def test_delete_non_active(runs: ChooRuns) -> None:
    """One finished run is deleted, a running one is not."""
    finished = a_run(runs, status="running")
    runs.update_run_status(finished, "completed")
    running = a_run(runs, status="running")

    assert 1 == runs.delete_non_active("feature", REPO)
    assert 0 == runs.delete_non_active("feature", REPO)
    shown = runs.get_run(running)
    assert shown is not None
    assert "running" == shown["status"]


def test_unit_and_event_without_a_run(runs: ChooRuns) -> None:
    """Neither a unit nor an event can be of no run."""
    with pytest.raises(RunNotFound):
        runs.create_unit(UNKNOWN, "one")
    with pytest.raises(RunNotFound):
        runs.append_event(UNKNOWN, "task.done")


def test_units(runs: ChooRuns) -> None:
    """Units are listed with their own status; the same unit is made once a run."""
    run, other = a_run(runs), a_run(runs, "other")
    one = runs.create_unit(run, "one", branch="ralph/one", worktree_path="/w/one", status="running")
    two = runs.create_unit(run, "two")

    assert one == runs.create_unit(run, "one", branch="ralph/one", worktree_path="/w/one")
    assert one != runs.create_unit(other, "one", branch="ralph/one", worktree_path="/w/one")
    runs.update_run_status(one, "failed", "conflict")

    assert [(one, "one", "failed", "conflict", "ralph/one"), (two, "two", "pending", None, "")] == [
        tuple(unit[name] for name in ("id", "unit_id", "status", "error", "branch")) for unit in runs.list_units(run)
    ]


def test_events_are_numbered(runs: ChooRuns) -> None:
    """5 events are 1 to 5; since 2 are 3, 4, 5; type and unit filters take 2 of 3."""
    run = a_run(runs)

    assert [1, 2, 3, 4, 5] == [
        runs.append_event(run, name, unit_id=unit, payload={"n": 1})
        for name, unit in [
            ("task.started", "one"),
            ("task.completed", "one"),
            ("unit.started", "two"),
            ("pr.opened", None),
            ("pr.merged", None),
        ]
    ]
    assert [3, 4, 5] == [event.sequence for event in runs.list_events(run, after_sequence=2).events]
    assert ["task.started", "task.completed"] == [
        event.type for event in runs.list_events(run, type_prefix="task.").events
    ]
    assert [1, 2] == [event.sequence for event in runs.list_events(run, unit_id="one").events]
    event = runs.list_events(run, limit=1)
    assert (1, 5, True) == (len(event.events), event.total, event.has_more)
    assert ({"n": 1}, "one") == (event.events[0].payload, event.events[0].unit)
    with pytest.raises(InvalidInput):
        runs.list_events(run, limit=1_001)


def test_events_of_ten_processes(shared_url: str) -> None:
    """10 writers with 10 events each make 100, unique and consecutive: processes and threads."""
    with ledger.open(shared_url, migrate=True) as log:
        runs = ChooRuns(log)
        by_processes, by_threads = a_run(runs, "processes"), a_run(runs, "threads")
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", APPENDER, shared_url, by_processes],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[2],
            )
            for _ in range(10)
        ]
        for process in processes:
            assert process.stdout is not None
            assert "ready\n" == process.stdout.readline()
        given = [int(number) for process in processes for number in process.communicate("go\n", timeout=60)[0].split()]
        assert list(range(1, 101)) == sorted(given)

        numbers: list[int] = []

        def append() -> None:
            for _ in range(10):
                numbers.append(runs.append_event(by_threads, "task.done"))

        threads = [threading.Thread(target=append) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert list(range(1, 101)) == sorted(numbers)
        assert 100 == runs.list_events(by_threads).total


def test_subscribe_from_history(runs: ChooRuns, log: Ledger) -> None:
    """Of 3 events, a subscriber after the first gets the second and third, then what comes, in order."""
    run = a_run(runs)
    positions = []
    for name in ("event1", "event2", "event3"):
        runs.append_event(run, name)
        positions.append(list(log.read(run))[-1].position)

    with log.subscribe(after=positions[0], run_id=run) as subscription:
        seen = [next(subscription).data.name for _ in range(2)]
        runs.append_event(run, "event4")
        seen.append(next(subscription).data.name)

    assert ["event2", "event3", "event4"] == seen


def test_subscribers_when_one_is_stuck(runs: ChooRuns, log: Ledger) -> None:
    """3 subscribers each get 150 events, the one that stood still as well: nothing is dropped, nobody is blocked."""
    run = a_run(runs)
    subscriptions = [log.subscribe(run_id=run) for _ in range(3)]
    stuck, *others = subscriptions
    next(stuck)

    for number in range(150):
        runs.append_event(run, f"event{number}")
    for subscription in others:
        assert 151 == len([next(subscription) for _ in range(151)])
    assert 150 == len([next(stuck) for _ in range(150)])
    for subscription in subscriptions:
        subscription.close()
    runs.append_event(run, "after they closed")


def test_stop_and_resume_in_the_same_stream(runs: ChooRuns) -> None:
    """A resumed run keeps its id, and its sequence goes on: the marker of the stop is not the end."""
    run = a_run(runs, status="running")
    for _ in range(3):
        runs.append_event(run, "task.done")
    runs.stop(run, reason="laptop closed")
    runs.resume(run)
    runs.append_event(run, "task.done")

    events = runs.list_events(run).events
    assert [1, 2, 3, 4, 5, 6, 7] == [event.sequence for event in events]
    assert ["run.stopped", "run.resumed"] == [event.type for event in events[4:6]]
    assert {"reason": "laptop closed"} == events[4].payload


def test_resume_all(runs: ChooRuns) -> None:
    """Abandoned runs are resumed; a missing repository fails its run, a missing worktree its unit, and nothing else."""
    assert [] == runs.resume_all(stale_s=0)
    fine = a_run(runs, "fine", repo="/there", status="running")
    gone = a_run(runs, "gone", repo="/gone", status="running")
    kept = runs.create_unit(fine, "kept", worktree_path="/there/kept", status="running")
    lost = runs.create_unit(fine, "lost", worktree_path="/gone/lost", status="running")
    a_run(runs, "pending", repo="/there")
    time.sleep(0.01)

    reports = {report.run_id: report for report in runs.resume_all(stale_s=0, exists=lambda path: "gone" not in path)}

    assert {fine, gone} == set(reports)
    assert (True, None, ("lost",)) == reports[fine][1:]
    assert (False, "repository no longer exists", ()) == reports[gone][1:]
    failed, resumed = runs.get_run(gone), runs.get_run(fine)
    assert failed is not None
    assert resumed is not None
    assert ("failed", "running") == (failed["status"], resumed["status"])
    assert ["running", "failed"] == [unit["status"] for unit in runs.list_units(fine)]
    assert [kept, lost] == [unit["id"] for unit in runs.list_units(fine)]


def test_resume_all_when_a_run_is_alive(runs: ChooRuns) -> None:
    """A run whose last event is young is somebody's, and is left alone."""
    a_run(runs, status="running")

    assert [] == runs.resume_all(stale_s=60, exists=lambda path: True)
