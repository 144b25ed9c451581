"""`runfold import`: real files of the source systems, with everything that stands in such files."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from command_line import Done, runfold

import ledger
from ledger import Ledger, Status
from projections import Documents, Runs, verify

SENTRI = """
CREATE TABLE runs (
    id TEXT PRIMARY KEY, projectId TEXT, workspaceId TEXT, type TEXT, environmentId TEXT,
    status TEXT DEFAULT 'running', startedAt TEXT, finishedAt TEXT, duration INTEGER, error TEXT, errorCategory TEXT,
    currentStep INTEGER, deletedAt TEXT, passed INTEGER, failed INTEGER, total INTEGER, pagesFound INTEGER,
    retryCount INTEGER NOT NULL DEFAULT 0, shardCount INTEGER, shardsCompleted INTEGER, browser TEXT, testQueue TEXT,
    results TEXT DEFAULT '[]', gateResult TEXT, qualityAnalytics TEXT, promptAudit TEXT, githubCheck TEXT,
    tracePaths TEXT
);
CREATE TABLE run_logs (
    id INTEGER PRIMARY KEY, runId TEXT, seq INTEGER, level TEXT, message TEXT, createdAt TEXT
);
CREATE TABLE run_test_results (
    id INTEGER PRIMARY KEY, runId TEXT, testId TEXT, iterationIndex INTEGER, status TEXT, error TEXT, duration INTEGER
);
"""
CHOO = """
CREATE TABLE runs (
    id TEXT PRIMARY KEY, feature_branch TEXT, repo_path TEXT, target_branch TEXT, tasks_dir TEXT, parallelism INTEGER,
    status TEXT, daemon_version TEXT, started_at TEXT, completed_at TEXT, error TEXT, config_json TEXT
);
CREATE TABLE units (
    id TEXT PRIMARY KEY, run_id TEXT, unit_id TEXT, status TEXT, branch TEXT, worktree_path TEXT, started_at TEXT,
    completed_at TEXT, error TEXT
);
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT, sequence INTEGER, event_type TEXT, unit_id TEXT,
    payload_json TEXT, created_at TEXT
);
"""
SANDO = """
CREATE TABLE build_runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, sha TEXT, version TEXT, phase TEXT, result TEXT, started_at TEXT,
    finished_at TEXT, failure_summary TEXT
);
"""


class Source:
    """A file of a source system."""

    def __init__(self, path: Path, schema: str) -> None:
        self.path = path
        self.connection = sqlite3.connect(path)
        self.connection.executescript(schema)

    def add(self, table: str, **row: object) -> None:
        names = ", ".join(row)
        marks = ", ".join("?" * len(row))
        values = [json.dumps(value) if isinstance(value, list | dict) else value for value in row.values()]
        self.connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", values)
        self.connection.commit()

    def change(self, statement: str, *values: object) -> None:
        self.connection.execute(statement, values)
        self.connection.commit()


@pytest.fixture
def log(shared_url: str) -> Iterator[Ledger]:
    with ledger.open(shared_url, migrate=True) as opened:
        yield opened


def run_cli(*args: str, url: str) -> Done:
    return runfold(*args, "--url", url, folder=Path.cwd())


def bring_in(url: str, system: str, path: Path, *options: str, code: int = 0) -> dict[str, object]:
    done = run_cli("import", system, str(path), *options, "--json", url=url)
    assert code == done.code, done.err
    figures: dict[str, object] = json.loads(done.out)
    return figures


def by_label(log: Ledger, name: str, value: str) -> str:
    run = Runs(log).latest(labels={name: value}, deleted="include")
    assert run is not None
    return run.run_id


def a_result(test_id: str, status: str = "passed", **more: object) -> dict[str, object]:
    return {"testId": test_id, "testName": f"name of {test_id}", "status": status, "durationMs": 12, **more}


@pytest.fixture
def sentri(tmp_path: Path) -> Source:
    """A Sentri file: a plain run, a cut one, one of each end, and what should not be there."""
    source = Source(tmp_path / "sentri.db", SENTRI)
    started = "2026-01-05T10:00:00.000Z"
    common = {"projectId": "web", "type": "test_run", "startedAt": started}
    source.add(
        "runs",
        id="RUN-1",
        **common,
        status="completed",
        finishedAt="2026-01-05T10:01:00.000Z",
        duration=60_000,
        passed=2,
        failed=1,
        total=4,
        results=[
            a_result("T1"),
            a_result("T2", "failed", error="boom"),
            a_result("T3", "warning"),
            a_result("T4", "skipped", skipReason="over_budget"),
        ],
        gateResult={"passed": False, "violations": ["2 flaky"]},
        qualityAnalytics={"score": 7},
        promptAudit=[{"prompt": "x" * 2_000}],
        githubCheck={"deliveryId": "d-1", "sha": "abc"},
        browser="firefox",
    )
    for seq, (at, message) in enumerate(
        [("2026-01-05 10:00:01", "begun"), ("2026-01-05T10:00:01Z", "still"), ("2026-01-05T10:00:30.500Z", "done")], 1
    ):
        source.add("run_logs", runId="RUN-1", seq=seq, level="info", message=message, createdAt=at)
    source.add(
        "runs",
        id="RUN-2",
        **common,
        status="failed",
        finishedAt="2026-01-05T10:02:00.000Z",
        error="Shard failed",
        errorCategory="crash",
        shardCount=4,
        shardsCompleted=2,
        passed=5,
        failed=0,
        total=40,
        results=[a_result(f"S{shard}", _shardIndex=shard) for shard in (0, 1, 1, 0)],
    )
    source.add(
        "runs", id="RUN-3", **common, status="aborted", error="Aborted by user", finishedAt="2026-01-05 10:03:00"
    )
    source.add("runs", id="RUN-4", **common, status="interrupted", error="Server restarted")
    source.add("run_test_results", runId="RUN-4", testId="C1", iterationIndex=0, status="passed", duration=5)
    source.add("runs", id="RUN-5", **{**common, "type": "crawl"}, status="completed_empty", finishedAt=started)
    source.add(
        "runs",
        id="RUN-6",
        **common,
        status="completed",
        finishedAt=started,
        deletedAt="2026-02-01 00:00:00",
        results="[{malformed",
    )
    source.add("runs", id="RUN-7", **common, status="running", passed=1, failed=0, total=9, results=[a_result("R1")])
    source.add(
        "runs",
        id="RUN-8",
        projectId=None,
        type=None,
        status="exploded",
        startedAt="yesterday",
        finishedAt=None,
        duration=-5,
        shardCount=0,
        results=[1, {"testId": "x"}, {"testId": "big", "status": "passed", "n": 2**60, "text": "a\x00b"}],
    )
    for number in range(200):
        source.add(
            "runs",
            id=f"BULK-{number}",
            **common,
            status="completed",
            finishedAt=f"2026-01-06T00:{number % 60:02d}:00.000Z",
            results=[a_result(f"T{n}") for n in range(number % 7)],
        )
    return source


def test_import_sentri(log: Ledger, shared_url: str, sentri: Source) -> None:
    """Every run is there with its results, times, words, documents and logs."""
    figures = bring_in(shared_url, "sentri", sentri.path)

    assert (208, 208, 0) == (figures["runs"], figures["new_runs"], len(figures["skipped"]))  # type: ignore[arg-type]
    one = log.state(by_label(log, "sentri_id", "RUN-1"))
    assert (Status.COMPLETED, "web", "test_run", 2, 1, 1, 4) == (
        one.status,
        one.project,
        one.kind,
        one.passed,
        one.failed,
        one.skipped,
        one.total,
    )
    assert datetime(2026, 1, 5, 10, tzinfo=UTC) == one.started_at == one.created_at
    assert (datetime(2026, 1, 5, 10, 1, tzinfo=UTC), 60_000) == (one.finished_at, one.duration_ms)
    assert ("firefox", "d-1", "failed") == (one.labels["browser"], one.labels["deliveryId"], one.verdict)
    documents = Documents(log)
    assert {"score": 7} == documents.get(one.run_id, "qualityAnalytics")
    assert 2_000 == len(documents.get(one.run_id, "promptAudit")[0]["prompt"])  # type: ignore[index]
    lines = [(event.recorded_at, event.data.lines) for event in log.read(one.run_id) if event.type == "log_appended"]
    assert [
        (datetime(2026, 1, 5, 10, 0, 1, tzinfo=UTC), ["begun", "still"]),
        (datetime(2026, 1, 5, 10, 0, 30, 500_000, tzinfo=UTC), ["done"]),
    ] == lines
    two = log.state(by_label(log, "sentri_id", "RUN-2"))
    assert (Status.FAILED, "Shard failed", "crash", 5, 0, 40, 2, 4) == (
        two.status,
        two.error,
        two.error_category,
        two.passed,
        two.failed,
        two.total,
        two.shards_completed,
        two.shard_count,
    )
    assert [2, 2] == [sum(two.shards[shard].results.statuses.values()) for shard in (0, 1)]
    words = {number: log.state(by_label(log, "sentri_id", f"RUN-{number}")) for number in range(3, 9)}
    assert ["aborted", "interrupted", "completed", "completed", "running", "interrupted"] == [
        run.status for run in words.values()
    ]
    assert ("Aborted by user", 1) == (words[3].error, words[4].passed)
    assert datetime(2026, 2, 1, tzinfo=UTC) == words[6].deleted_at
    assert verify(log)


def test_import_sentri_tells_what_was_mended(log: Ledger, shared_url: str, sentri: Source) -> None:
    """Whatever was no time, status, number or JSON is told with its run, and in the run's own history."""
    figures = bring_in(shared_url, "sentri", sentri.path)

    told = {(entry["run"], entry["what"].partition(" ")[0]) for entry in figures["repaired"]}  # type: ignore[attr-defined]
    assert {("RUN-6", "results"), ("RUN-8", "startedAt"), ("RUN-8", "status"), ("RUN-8", "duration")} <= told
    run = by_label(log, "sentri_id", "RUN-8")
    note = list(log.read(run))[-1]
    assert ("annotated", "import:sentri") == (note.type, note.actor)
    assert "imported from sentri RUN-8 of sentri.db" in note.data.note
    assert "'exploded' is none of Sentri's" in note.data.note
    rows = [row for event in log.read(run) if event.type == "shard_result_appended" for row in event.data.results]
    assert [("x", "unknown"), ("big", "passed")] == [(row["testId"], row["status"]) for row in rows]
    assert (str(2**60), "a\ufffdb") == (rows[1]["n"], rows[1]["text"])


def test_import_as_it_was(log: Ledger, shared_url: str, sentri: Source) -> None:
    """The times of the past are those of the history, so a run and a list can be asked as of then."""
    bring_in(shared_url, "sentri", sentri.path)
    run = by_label(log, "sentri_id", "RUN-1")
    then = datetime(2026, 1, 5, 10, 0, 45, tzinfo=UTC)

    assert Status.RUNNING is Runs(log).get(run, at=then).status
    running = [one.run_id for one in Runs(log).list(status="running", at=then, limit=1_000).runs]
    assert run in running
    assert 200 < len(running)


def test_import_twice(log: Ledger, shared_url: str, sentri: Source) -> None:
    """A second import of the same file adds nothing."""
    bring_in(shared_url, "sentri", sentri.path)
    before = [event.event_id for event in log.read_all()]

    figures = bring_in(shared_url, "sentri", sentri.path)

    assert (208, 0, 0) == (figures["runs"], figures["new_runs"], figures["events"])
    assert before == [event.event_id for event in log.read_all()]


def test_import_when_the_file_grew(log: Ledger, shared_url: str, sentri: Source) -> None:
    """A run that went on goes on in the ledger, and new runs come to it; a copy under another name is the same."""
    bring_in(shared_url, "sentri", sentri.path)
    sentri.change(
        "UPDATE runs SET status = 'completed', finishedAt = ?, passed = 2, failed = 1, results = ? WHERE id = 'RUN-7'",
        "2026-01-05T11:00:00.000Z",
        json.dumps([a_result("R1"), a_result("R2"), a_result("R3", "failed")]),
    )
    sentri.add("run_logs", runId="RUN-1", seq=4, level="info", message="after all", createdAt="2026-01-05T12:00:00Z")
    sentri.add(
        "runs", id="RUN-9", projectId="web", type="test_run", status="completed", startedAt="2026-03-01T00:00:00Z"
    )
    copy = sentri.path.with_name("copy.db")
    copy.write_bytes(sentri.path.read_bytes())

    figures = bring_in(shared_url, "sentri", copy)

    assert 1 == figures["new_runs"]
    seven = log.state(by_label(log, "sentri_id", "RUN-7"))
    assert (Status.COMPLETED, 2, 1, 9) == (seven.status, seven.passed, seven.failed, seven.total)
    assert 4 == log.state(by_label(log, "sentri_id", "RUN-1")).log_line_count
    assert verify(log)


def test_import_when_killed(shared_url: str, sentri: Source) -> None:
    """An import that is killed in the middle leaves whole runs, and the next one goes on."""
    with ledger.open(shared_url, migrate=True):
        pass
    process = subprocess.Popen(
        [sys.executable, "-m", "runfold", "import", "sentri", str(sentri.path), "--url", shared_url],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with ledger.open(shared_url) as log:
        while process.poll() is None and sum(1 for _ in log.read_all()) < 50:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.wait()
        left = {event.run_id for event in log.read_all()}
        assert 0 < len(left)

        bring_in(shared_url, "sentri", sentri.path)

        assert 208 == Runs(log).count(deleted="include")
        assert 0 == bring_in(shared_url, "sentri", sentri.path)["events"]
        assert verify(log)


def test_import_choo(log: Ledger, shared_url: str, tmp_path: Path) -> None:
    """Runs come with their units as runs of their own and with their events, numbered as they were."""
    source = Source(tmp_path / "daemon.db", CHOO)
    run = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    source.add(
        "runs",
        id=run,
        feature_branch="feature",
        repo_path="/src/app",
        target_branch="main",
        parallelism=4,
        status="cancelled",
        started_at="2026-01-22T10:00:00+01:00",
        completed_at="2026-01-22T10:30:00+01:00",
        error="stopped by user",
        config_json={"api_key": "x"},
    )
    source.add(
        "units", id=f"{run}_api", run_id=run, unit_id="api", status="failed", branch="ralph/api", error="conflict"
    )
    source.add("units", id=f"{run}_web", run_id=run, unit_id="web", status="pending")
    for sequence, name in enumerate(["run.started", "task.completed", "unit.failed"], 1):
        source.add(
            "events",
            run_id=run,
            sequence=sequence,
            event_type=name,
            unit_id="api",
            payload_json='{"n": 1}' if sequence < 3 else "{",
            created_at=f"2026-01-22T09:0{sequence}:00Z",
        )
    source.add("runs", id="02", feature_branch="other", repo_path="/src/app", status="pending")

    figures = bring_in(shared_url, "choo", source.path)

    assert (4, 0) == (figures["new_runs"], len(figures["skipped"]))  # type: ignore[arg-type]
    state = log.state(by_label(log, "choo_id", run))
    assert (Status.ABORTED, "stopped by user", "feature", datetime(2026, 1, 22, 9, tzinfo=UTC)) == (
        state.status,
        state.error,
        state.labels["feature_branch"],
        state.started_at,
    )
    told = [
        event for event in log.read(state.run_id) if event.type == "document_recorded" and event.data.name != "config"
    ]
    assert [(1, "run.started", {"n": 1}), (2, "task.completed", {"n": 1}), (3, "unit.failed", None)] == [
        (event.data.document["sequence"], event.data.name, event.data.document["payload"]) for event in told
    ]
    assert datetime(2026, 1, 22, 9, 2, tzinfo=UTC) == told[1].recorded_at
    units = Runs(log).list(parent_run_id=state.run_id).runs
    assert {("api", "failed", "conflict"), ("web", "queued", None)} == {
        (unit.labels["unit_id"], unit.status, unit.error) for unit in units
    }
    source.add("events", run_id="02", sequence=1, event_type="run.started", created_at="2026-01-23T00:00:00Z")
    assert 2 == bring_in(shared_url, "choo", source.path)["events"]
    assert 0 == bring_in(shared_url, "choo", source.path)["events"]


def test_import_sando(log: Ledger, shared_url: str, tmp_path: Path) -> None:
    """Builds come with their version, phase and headline; a superseded one is aborted."""
    source = Source(tmp_path / "sando.db", SANDO)
    at = {"started_at": "2026-06-13T00:00:00+00:00", "finished_at": "2026-06-13T00:02:05+00:00"}
    source.add("build_runs", sha="a1", version="0.10.2", phase="done", result="passed", **at)
    source.add("build_runs", sha="b2", phase="done", result="failed", failure_summary="error[E0063]", **at)
    source.add(
        "build_runs", sha="c3", phase="done", result="aborted", failure_summary="superseded by a newer /rebuild", **at
    )
    source.add("build_runs", sha="d4", phase="compiling", result="building", started_at="2026-06-14T00:00:00Z")

    assert 4 == bring_in(shared_url, "sando", source.path)["new_runs"]

    shown = json.loads(run_cli("list", "--as", "sando", "--json", url=shared_url).out)["runs"]
    assert {
        ("a1", "passed", "0.10.2", "done", None),
        ("b2", "failed", None, "done", "error[E0063]"),
        ("c3", "aborted", None, "done", "superseded by a newer /rebuild"),
        ("d4", "building", None, "compiling", None),
    } == {(run["sha"], run["result"], run["version"], run["phase"], run["failure_summary"]) for run in shown}
    assert 0 == bring_in(shared_url, "sando", source.path)["events"]


def test_import_dry_run(log: Ledger, shared_url: str, sentri: Source) -> None:
    """A dry run tells what would be brought in, and writes nothing."""
    figures = bring_in(shared_url, "sentri", sentri.path, "--dry-run")

    assert 208 == figures["new_runs"]
    assert [] == list(log.read_all())


def test_import_of_another_file(sqlite_url: str, tmp_path: Path) -> None:
    """A file of another system, or none at all, is refused with what is missing."""
    source = Source(tmp_path / "sando.db", SANDO)
    text = tmp_path / "notes.txt"
    text.write_text("no database " * 100)

    wrong = run_cli("import", "sentri", str(source.path), url=sqlite_url)
    none = run_cli("import", "sentri", str(text), url=sqlite_url)

    assert (2, 2) == (wrong.code, none.code)
    assert "has no 'runs'" in wrong.err
    assert "cannot be read" in none.err


@pytest.mark.parametrize(("system", "other"), [("sentri", CHOO), ("choo", SENTRI), ("sando", SENTRI)])
def test_import_when_the_file_is_of_another_system(tmp_path: Path, system: str, other: str) -> None:
    """Another system's file is refused by name, and no ledger is made for it."""
    source = Source(tmp_path / "other.db", other)
    source.add("runs", id="r1", status="running")

    done = runfold("import", system, str(source.path), folder=tmp_path)

    assert 2 == done.code
    assert "it is not the database of this system" in done.err
    assert not (tmp_path / ".runfold").exists()


def test_import_when_dry_and_there_is_no_ledger(tmp_path: Path, sentri: Source) -> None:
    """Looking what would be brought in makes neither a folder nor a ledger."""
    done = runfold("import", "sentri", str(sentri.path), "--dry-run", "--json", folder=tmp_path)

    assert 0 < json.loads(done.out)["new_runs"], done.err
    assert not (tmp_path / ".runfold").exists()
