"""`runfold exec` with result files of other runners: JUnit XML at the end, pytest-reportlog while it is written."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ledger
from ledger.run.state import RunState

RUNFOLD = (str(Path(sys.executable).parent / "runfold"), "exec")
PASSED = '<testsuite><testcase name="{name}" classname="C"/></testsuite>'
REPORT = '{{"$report_type": "TestReport", "nodeid": "a.py::{name}", "when": "call", "outcome": "passed"}}'


def runfold_exec(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RUNFOLD, "test", *arguments],
        cwd=folder,
        env={**os.environ, "RUNFOLD_URL": "sqlite:///runs.db"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def the_run(folder: Path) -> RunState:
    with ledger.open(f"sqlite:///{folder / 'runs.db'}") as log:
        return log.state(next(iter(log.read_all(types=["enqueued"]))).run_id)


def the_results(folder: Path) -> list[tuple[int | None, str, str]]:
    with ledger.open(f"sqlite:///{folder / 'runs.db'}") as log:
        events = [event.data for event in log.read_all(types=["shard_result_appended"])]
    return sorted(
        (event.shard, result["testId"], result["status"])  # type: ignore[union-attr]
        for event in events
        for result in event.results  # type: ignore[union-attr]
    )


def test_exec_when_shards_write_junit(tmp_path: Path) -> None:
    """Every file of a shard's pattern becomes results of that shard, in folders of any depth."""
    script = f"mkdir -p out/{{shard}}/deep; echo '{PASSED.format(name='a{shard}')}' >out/{{shard}}/deep/TEST-a.xml"
    script += f"; echo '{PASSED.format(name='b{shard}')}' >out/{{shard}}/TEST-b.xml"

    done = runfold_exec(tmp_path, "--shards", "2", "--junit", "out/{shard}/**/TEST-*.xml", "--", "sh", "-c", script)

    assert 0 == done.returncode, done.stderr
    assert [(n, f"C::{name}{n}", "passed") for n in range(2) for name in "ab"] == the_results(tmp_path)
    assert ("completed", "passed") == (the_run(tmp_path).status, the_run(tmp_path).verdict)


def test_exec_when_a_file_is_of_an_earlier_run(tmp_path: Path) -> None:
    """A file that this run did not write is left alone, and one that it wrote anew is read."""
    for name in ("old", "again"):
        (tmp_path / f"{name}.xml").write_text(PASSED.format(name=name))

    runfold_exec(tmp_path, "--junit", "*.xml", "--", "sh", "-c", f"echo '{PASSED.format(name='again')}' >again.xml")

    assert [(0, "C::again", "passed")] == the_results(tmp_path)


def test_exec_when_a_report_log_grows(tmp_path: Path) -> None:
    """Results of a report log are in the ledger while the command still writes it."""
    os.mkfifo(tmp_path / "pipe")
    script = f"echo '{REPORT.format(name='early')}' >log; read line <pipe; echo '{REPORT.format(name='late')}' >>log"
    process = subprocess.Popen(
        [*RUNFOLD, "test", "--reportlog", "log", "--", "sh", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "RUNFOLD_URL": "sqlite:///runs.db"},
        stderr=subprocess.DEVNULL,
    )

    with ledger.open(f"sqlite:///{tmp_path / 'runs.db'}") as log, log.subscribe(types=["shard_result_appended"]) as new:
        first = next(new).data
    (tmp_path / "pipe").write_text("go\n")
    process.wait(30)

    assert ["a.py::early"] == [result["testId"] for result in first.results]  # type: ignore[union-attr]
    assert [(0, "a.py::early", "passed"), (0, "a.py::late", "passed")] == the_results(tmp_path)


@pytest.mark.parametrize(
    ("option", "content", "where"),
    [
        ("--junit", '<testsuite><testcase name="a"/><oops', "line 1, column 32"),
        ("--junit", '<!DOCTYPE x [<!ENTITY a "b">]><testsuite/>', "line 1, column 13"),
        ("--reportlog", REPORT.format(name="a") + "\n{oops", "line 2"),
    ],
)
def test_exec_when_a_file_is_broken(tmp_path: Path, option: str, content: str, where: str) -> None:
    """A broken file is an error among the results that names file and place, and the run is recorded to its end."""
    (tmp_path / "content").write_text(content)

    done = runfold_exec(tmp_path, option, "broken.*", "--", "cp", "content", "broken.file")

    run = the_run(tmp_path)
    assert (1, "completed", "failed") == (done.returncode, run.status, run.verdict)
    assert (0, "broken.file", "error") in the_results(tmp_path)
    assert f"broken.file, {where}: " in done.stderr
    assert "Traceback" not in done.stderr


def test_exec_when_no_file_was_written(tmp_path: Path) -> None:
    """A pattern that found nothing is told, on the terminal and in the run's log."""
    done = runfold_exec(tmp_path, "--junit", "nowhere/*.xml", "--", "true")

    with ledger.open(f"sqlite:///{tmp_path / 'runs.db'}") as log:
        (said,) = log.read_all(types=["log_appended"])
    assert 0 == done.returncode
    assert "no result file of this run matches nowhere/*.xml" in done.stderr
    assert "runfold" == said.data.source  # type: ignore[union-attr]


def test_exec_when_pytest_writes_files_too(tmp_path: Path) -> None:
    """Results that come from files are not recorded by the plugin as well."""
    (tmp_path / "test_it.py").write_text("def test_one(): pass\n")

    runfold_exec(
        tmp_path, "--junit", "r.xml", "--", sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--junitxml=r.xml"
    )

    assert [(0, "test_it::test_one", "passed")] == the_results(tmp_path)


def test_exec_when_a_file_holds_many_results(tmp_path: Path) -> None:
    """Thousands of results are appended in batches, in their order, and none twice."""
    cases = "".join(f'<testcase name="t{n:05}"/>' for n in range(5_000))
    (tmp_path / "content").write_text(f"<testsuite>{cases}</testsuite>")
    began = time.monotonic()

    runfold_exec(tmp_path, "--junit", "big.xml", "--", "cp", "content", "big.xml")

    run = the_run(tmp_path)
    assert {"passed": 5_000} == run.statuses
    assert run.version <= 60
    assert time.monotonic() - began < 30


def test_exec_when_a_result_is_no_fit_text(tmp_path: Path) -> None:
    """A report log with lone surrogates and NUL in its texts is recorded, those replaced."""
    line = REPORT.format(name="\\ud800\\u0000x")
    (tmp_path / "content").write_text(line + "\n")

    done = runfold_exec(tmp_path, "--reportlog", "log", "--", "cp", "content", "log")

    assert 0 == done.returncode, done.stderr
    assert {"passed": 1} == the_run(tmp_path).statuses
