"""A worker process that dies by SIGKILL exactly where a test wants it to, once a wish.

    python mortal_worker.py URL NAME FOLDER

A wish is a file in the folder, `RUN_ID.NUMBER`, that holds a step: an event's type, for results which batch of the
handler it is, and `before` its append, `uncommitted` (appended, and not yet committed) or `after` its commit. Whoever
comes to that step of that run renames the file to `died.RUN_ID.NUMBER`, and is gone. `put_back` is no event: a sweep
offers the finalization of a finalizer that is gone to others.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cli.worker
import ledger
from cli.worker import Work, Worker
from ledger.store import AppendRequest

BATCHES = threading.local()
"""How many batches of results the handler of this thread has appended."""
WISHES = {
    "cut": [
        *(f"shard_started {moment}" for moment in ("before", "uncommitted", "after")),
        *(f"shard_result_appended {batch} {moment}" for batch in (1, 2) for moment in ("before", "after")),
        *(f"shard_completed {moment}" for moment in ("before", "after")),
        *(f"finalization_started {moment}" for moment in ("before", "uncommitted", "after")),
        *(f"{event} {moment}" for event in ("gate_finished", "completed") for moment in ("before", "after")),
        *(f"shard_started after, shard_retried {moment}" for moment in ("before", "uncommitted", "after")),
        *(f"finalization_started after, put_back {moment}" for moment in ("before", "uncommitted")),
    ],
    "whole": [
        "started after",
        *(f"shard_result_appended {batch} {moment}" for batch in (1, 2) for moment in ("before", "after")),
        *(f"completed {moment}" for moment in ("before", "after")),
        *(f"started after, attempt_failed {moment}" for moment in ("before", "uncommitted", "after")),
    ],
}
"""Every step at which a worker of a kind can die; where there are two, another dies while it sweeps after the first."""


def die_at(run_id: str, step: str) -> None:
    """Die, if somebody wishes so and nobody else did already."""
    for wish in FOLDER.glob(f"{run_id}.*"):
        try:
            if wish.read_text() == step:
                wish.rename(wish.with_name(f"died.{wish.name}"))
                os.kill(os.getpid(), signal.SIGKILL)
        except FileNotFoundError:  # another one dies of it
            continue


def step_of(request: AppendRequest) -> str:
    event_type = request.events[-1].type
    if event_type != "shard_result_appended":
        return event_type
    BATCHES.count += 1
    return f"{event_type} {BATCHES.count}"


def make_mortal(log: ledger.Ledger) -> None:
    """Let every append and every claim of this process be a place to die."""
    store: Any = log.store
    append, in_turn = store.append, store.in_turn

    def mortal_append(request: AppendRequest) -> Any:
        step = step_of(request)
        die_at(request.run_id, f"{step} before")
        appended = append(request)
        die_at(request.run_id, f"{step} after")
        return appended

    @contextmanager
    def mortal_turn(run_id: str) -> Iterator[Any]:
        with in_turn(run_id) as turn:
            mortal = MortalTurn(turn)
            yield mortal
        for step in mortal.steps:
            die_at(run_id, f"{step} after")

    store.append, store.in_turn = mortal_append, mortal_turn
    tasks: Any = type(store.tasks)
    claiming, lend_runs, settling = tasks.claiming, tasks.lend_runs, tasks.settling

    @contextmanager
    def mortal_claiming(self: Any, **options: Any) -> Iterator[Any]:
        with claiming(self, **options) as taking:
            mortal = MortalClaiming(taking)
            yield mortal
        for request in mortal.requests:
            die_at(request.run_id, f"{step_of(request)} after")

    def mortal_lend_runs(self: Any, **options: Any) -> Any:
        lent = lend_runs(self, **options)
        for one in lent or ():
            die_at(one.run_id, "started after")
        return lent

    @contextmanager
    def mortal_settling(self: Any, **_: Any) -> Iterator[Any]:
        with settling(self, limit=1) as sweeping:  # one dies of one wish: of several, the others would not come true
            mortal = MortalSettling(sweeping)
            yield mortal
        for request in mortal.requests:
            die_at(request.run_id, f"{step_of(request)} after")

    tasks.claiming, tasks.lend_runs, tasks.settling = mortal_claiming, mortal_lend_runs, mortal_settling


class MortalTurn:
    """A turn in which one may die."""

    def __init__(self, turn: Any) -> None:
        self.read_run, self._append = turn.read_run, turn.append
        self.steps: list[str] = []

    def append(self, request: AppendRequest) -> Any:
        self.steps.append(step_of(request))
        die_at(request.run_id, f"{self.steps[-1]} before")
        return self._append(request)


class MortalClaiming:
    """A claim in which one may die."""

    def __init__(self, claiming: Any) -> None:
        self.tasks, self._take = claiming.tasks, claiming.take
        self.requests: Sequence[AppendRequest] = ()

    def take(self, requests: Sequence[AppendRequest], shards: Any) -> Any:
        self.requests = requests
        self._die(" before")
        taken = self._take(requests, shards)
        self._die(" uncommitted")
        return taken

    def _die(self, moment: str) -> None:
        for request in self.requests:
            die_at(request.run_id, step_of(request) + moment)


class MortalSettling:
    """A sweep in which one may die."""

    def __init__(self, settling: Any) -> None:
        self.tasks, self.read_run = settling.tasks, settling.read_run
        self._append, self._put_back = settling.append, settling.put_back
        self.requests: list[AppendRequest] = []

    def append(self, request: AppendRequest) -> Any:
        self.requests.append(request)
        die_at(request.run_id, f"{step_of(request)} before")
        appended = self._append(request)
        die_at(request.run_id, f"{step_of(request)} uncommitted")
        return appended

    def put_back(self, task: Any) -> None:
        die_at(task.run_id, "put_back before")
        self._put_back(task)
        die_at(task.run_id, "put_back uncommitted")


def execute(work: Work) -> str:
    BATCHES.count = 0
    half = len(work.plan) // 2
    for tests in (work.plan[:half], work.plan[half:]):
        work.wait_stopped(work.input.get("pause_s", 0))
        work.append_results([{"testId": test_id, "status": "passed"} for test_id in tests])
    return f"report/{work.run_id}"


def finalize(work: Work) -> str:
    work.log.finish_gate(work.run_id, "coverage", "passed")
    return f"report/{work.run_id}"


if __name__ == "__main__":
    FOLDER = Path(sys.argv[3])
    cli.worker.SWEEP_S = 0.5  # type: ignore[misc]  # they die often, and sweep little at once
    with ledger.open(sys.argv[1]) as log:
        make_mortal(log)
        worker = Worker(
            log,
            {"cut": execute, "whole": execute},
            finalizers={"cut": finalize},
            name=sys.argv[2],
            concurrency=1,
            lease_s=1.5,
        )
        signal.signal(signal.SIGTERM, lambda *_: worker.stop())
        worker.run()
