"""Purges that are killed, and those that race with writers of other processes: nothing is left un-erased."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ledger
from ledger.run.events import Purged, ShardResultAppended
from projections import Runs, verify

PURGER = """
import sys
import ledger
from ledger import limits

limits.ERASE_EVENTS = 20
with ledger.open(sys.argv[1]) as log:
    in_turn = log.store.in_turn

    def in_turn_when_told(run_id):
        print("next", flush=True)
        sys.stdin.readline()
        return in_turn(run_id)

    log.store.in_turn = in_turn_when_told
    log.purge(sys.argv[2])
"""
"""Says when it is about to erase some more, and goes on when it is told."""


WRITER = """
import sys
import ledger

with ledger.open(sys.argv[1]) as log:
    number = 0
    try:
        while True:
            log.append_log(sys.argv[2], [f"{sys.argv[3]}-{number}"])
            number += 1
            print(number, flush=True)
    except ledger.RunPurged:
        print("purged after", number, flush=True)
"""


def start(program: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def a_long_run(log: ledger.Ledger, *, events: int) -> str:
    run = log.enqueue("test")
    log.start(run.id, worker="w")
    for _ in range(events // 100):
        log.append(run.id, [some_results(number) for number in range(100)])
    log.complete(run.id)
    log.delete(run.id)
    return run.id


def some_results(number: int) -> ShardResultAppended:
    return ShardResultAppended(results=[{"status": "passed", "testId": f"T{number}"}])


def erased(log: ledger.Ledger, run_id: str) -> int:
    return sum(event.data is None for event in log.read(run_id))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_purge_when_it_is_killed(seed: int, shared_url: str) -> None:
    """Purges killed with SIGKILL at random points leave a run that is read, verified, and finished by the next."""
    chance = random.Random(seed)
    with ledger.open(shared_url, migrate=True) as log:
        run_id = a_long_run(log, events=2_000)
        gone = 0
        for _ in range(4):
            purger = start(PURGER, shared_url, run_id)
            assert purger.stdin is not None
            assert purger.stdout is not None
            for _ in range(chance.randrange(2, 20)):
                assert "next\n" == purger.stdout.readline()
                purger.stdin.write("\n")
                purger.stdin.flush()
            time.sleep(chance.uniform(0, 0.003))
            purger.kill()
            purger.communicate()
            before, gone = gone, erased(log, run_id)
            assert max(before, 20) <= gone < 2_000
            state = log.state(run_id)
            assert state.purged_at is None
            assert state.purged_version
            assert (state.passed, state.kind) == (2_000, "test")
            assert verify(log)
            assert [run_id] == [run.id for run in Runs(log).list(deleted="only").runs]

        log.purge(run_id)

        *past, last = log.read(run_id)
        assert [None] * len(past) == [event.data for event in past]
        assert isinstance(last.data, Purged)
        assert last.data.is_whole
        assert verify(log)


def test_purge_when_other_processes_append(shared_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that log into a finished run at full speed are refused from the purge on; all they wrote is erased."""
    monkeypatch.setattr("ledger.limits.ERASE_EVENTS", 20)
    with ledger.open(shared_url, migrate=True) as log:
        run_id = a_long_run(log, events=200)
        writers = [start(WRITER, shared_url, run_id, str(number)) for number in range(3)]
        for writer in writers:
            assert writer.stdout is not None
            assert "1\n" == writer.stdout.readline()

        log.purge(run_id)

        last_words = [writer.communicate(timeout=60)[0].splitlines()[-1].split() for writer in writers]
        *past, last = log.read(run_id)
        logged = [event for event in past if event.type == "log_appended"]
        assert [["purged", "after"]] * 3 == [words[:2] for words in last_words]
        assert sum(int(words[2]) for words in last_words) == len(logged)
        assert [None] * len(past) == [event.data for event in past]
        assert isinstance(last.data, Purged)
        assert verify(log)
