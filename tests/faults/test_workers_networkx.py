"""A real suite as a sharded run through worker processes, one of which is killed: the counts are pytest's own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import RUNFOLD, environment

import ledger
from ledger import Ledger

IS_CAMPAIGN = bool(os.environ.get("RUNFOLD_CAMPAIGN"))
PACKAGE = "networkx" if IS_CAMPAIGN else "networkx.algorithms.centrality"
COUNTED = re.compile(r"(\d+) (passed|failed|skipped|xfailed|xpassed|error)s?\b")


def pytest_command(folder: Path) -> list[str]:
    settings = folder / "pytest.ini"
    settings.write_text("[pytest]\n")  # ours would make networkx's warnings errors
    return [sys.executable, "-m", "pytest", "-q", "-c", str(settings), "-p", "no:cacheprovider", "--pyargs", PACKAGE]


def run_in(folder: Path, *command: str, url: str = "") -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder, RUNFOLD_URL=url),
        capture_output=True,
        text=True,
        timeout=1_800,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def until(is_so: Callable[[], object], *, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.timeout(3_600 if IS_CAMPAIGN else 300)
def test_workers_when_one_is_killed_in_the_middle_of_networkx(shared_url: str, tmp_path: Path) -> None:
    """Three workers execute four balanced shards, one of them dies: what counts is what a plain pytest counts."""
    command = pytest_command(tmp_path)
    expected = plain_counts(tmp_path, command)
    collected = run_in(tmp_path, *command, "-p", "no:runfold", "--collect-only")
    (tmp_path / "tests.txt").write_text("".join(f"{x}\n" for x in collected.splitlines() if "::" in x))
    with ledger.open(shared_url, migrate=True) as log:
        asked = ("enqueue", "test", "--project", "networkx", "--tests", "tests.txt", "--attempts-max", "5")
        run = run_in(tmp_path, RUNFOLD, *asked, "--shards", "4", "--balance", url=shared_url).split("\t")[0]
        worker = (RUNFOLD, "worker", "--kind", "test", "--lease", "3s", "--split-pytest", "--", *command)
        processes = [
            subprocess.Popen(
                worker, cwd=tmp_path, env=environment(tmp_path, RUNFOLD_URL=shared_url), stderr=subprocess.DEVNULL
            )
            for _ in range(3)
        ]
        try:
            until(lambda: is_in_the_middle(log, run, processes[0].pid), timeout_s=1_500 if IS_CAMPAIGN else 200)
            processes[0].send_signal(signal.SIGKILL)
            until(lambda: log.state(run).is_terminal, timeout_s=3_000 if IS_CAMPAIGN else 200)
        finally:
            for process in processes:
                process.terminate()
            codes = [process.wait(timeout=60) for process in processes]

        state = log.state(run)
        assert [-signal.SIGKILL, 0, 0] == codes
        assert 1 <= sum(event.type == "shard_retried" for event in log.read(run))
        assert expected == Counter(state.statuses)
        assert expected.total() == state.total
        assert ("completed", 4) == (state.status, state.shards_completed)


def plain_counts(folder: Path, command: list[str]) -> Counter[str]:
    """Count what a plain pytest counts, but for files that skip themselves: no test of theirs can be planned."""
    said = run_in(folder, *command, "-p", "no:runfold", "--report-log=plain.jsonl")
    counts = Counter({word: int(count) for count, word in COUNTED.findall(said.strip().splitlines()[-1])})
    reports = map(json.loads, (folder / "plain.jsonl").read_text().splitlines())
    skipped = [one for one in reports if one["$report_type"] == "CollectReport" and one["outcome"] == "skipped"]
    return counts - Counter(skipped=len(skipped))


def is_in_the_middle(log: Ledger, run_id: str, process_id: int) -> bool:
    """Tell whether a worker's shard has results, and is not done."""
    return any(
        (shard.worker or "").endswith(f":{process_id}") and not shard.is_completed and shard.results.next_sequence > 0
        for shard in log.state(run_id).shards.values()
    )
