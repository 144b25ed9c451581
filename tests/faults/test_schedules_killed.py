"""Daemons that are killed while they run schedules: each occurrence is asked for once, whoever dies when."""

import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from command_line import RUNFOLD, environment, runfold

import ledger
from cli.schedules.schedules import Request, new_schedule, open_schedule_table
from ledger.clock import utc_now
from ledger.run.codec import decode_page
from ledger.run.events import Enqueued

MISSED = 150


@contextmanager
def a_daemon(url: str, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with (folder / "daemon.log").open("ab") as errors:
        process = subprocess.Popen(
            [RUNFOLD, "daemon", "--url", url, "--log-format", "json"],
            cwd=folder,
            env=environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


def occurrences(log: ledger.Ledger) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    position, more = 0, True
    while more:
        page = log.store.read_log(after_position=position, limit=1_000)
        position, more = page.last_position, page.more
        for event in decode_page(page.events):
            if isinstance(event.data, Enqueued):
                found[event.data.labels["schedule"], event.data.labels["scheduled_for"]] += 1
    return found


def wait_until(is_done: Any, *, timeout_s: float = 60) -> None:
    give_up_at = time.monotonic() + timeout_s
    while not is_done():
        assert time.monotonic() < give_up_at, "it did not come to that"
        time.sleep(0.02)


def test_daemons_when_they_are_killed_while_they_catch_up(shared_url: str, tmp_path: Path) -> None:
    """However often daemons die, and two at a time, every occurrence that was missed is asked for once."""
    began_at = utc_now().replace(second=0, microsecond=0) - timedelta(minutes=MISSED)
    with ledger.open(shared_url, migrate=True) as log:
        table = open_schedule_table(log.store)
        for name in ("one", "two"):
            made = new_schedule(
                name, cron="* * * * *", timezone="UTC", request=Request(kind="test"), missed="all", now=began_at
            )
            table.add(made, actor=None)
        for kill in range(1, 6):
            with a_daemon(shared_url, tmp_path), a_daemon(shared_url, tmp_path):
                wait_until(lambda: len(occurrences(log)) >= kill * 45)  # noqa: B023
                time.sleep(random.random() / 20)
        with a_daemon(shared_url, tmp_path), a_daemon(shared_url, tmp_path):
            wait_until(lambda: all(each.next_at > utc_now() for each in table.list()))
        ended_at = utc_now()
        found = occurrences(log)

    assert {1} == set(found.values())
    due = {began_at + timedelta(minutes=count) for count in range(1, MISSED + 1)}
    for name in ("one", "two"):
        told = {datetime.fromisoformat(when) for schedule, when in found if schedule == name}
        assert due <= told
        assert max(told) <= ended_at


def test_daemons_when_a_minute_passes(postgres_url: str, tmp_path: Path) -> None:
    """Three daemons that wait for the same minute ask for one run, within a second of it."""
    with ledger.open(postgres_url, migrate=True) as log, ExitStack() as stack:
        assert 0 == schedule("add", "minutely", "--cron", "* * * * *", "--kind", "t", url=postgres_url, folder=tmp_path)
        daemons: list[AbstractContextManager[Any]] = [a_daemon(postgres_url, tmp_path) for _ in range(3)]
        for each in daemons:
            stack.enter_context(each)
        wait_until(lambda: occurrences(log), timeout_s=90)
        time.sleep(1.5)

        [(occurrence, count)] = occurrences(log).items()
        [event] = decode_page(log.store.read_log(after_position=0, limit=9).events)
        late = datetime.fromisoformat(event.envelope.recorded_at) - datetime.fromisoformat(occurrence[1])

    assert 1 == count
    assert timedelta(0) <= late < timedelta(seconds=1.5)


def test_daemon_when_a_worker_is_gone(shared_url: str, tmp_path: Path) -> None:
    """A daemon alone settles the lease of a worker that is gone."""
    with ledger.open(shared_url, migrate=True) as log:
        run = log.enqueue("test", attempts_max=1).id
        [lease] = log.claim("gone", kinds=["test"], limit=1, lease_s=1.0)
        assert run == lease.run_id
        with a_daemon(shared_url, tmp_path):
            wait_until(lambda: log.state(run).status.value != "running")

        assert "failed" == log.state(run).status.value


def schedule(*args: str, url: str, folder: Path) -> int:
    return runfold("schedule", *args, "--url", url, folder=folder).code


def test_schedule_commands_when_used_together(shared_url: str, tmp_path: Path) -> None:
    """What is added is listed, rests, goes on and is removed, and its history tells all of that."""
    ledger.open(shared_url, migrate=True).close()

    def run(*args: str, code: int = 0) -> list[list[str]]:
        done = runfold("schedule", *args, "--url", shared_url, folder=tmp_path, env={"RUNFOLD_ACTOR": "ada"})
        assert code == done.code, done.err
        return done.rows

    expression = ("--cron", "30 2 * * *", "--timezone", "Europe/Berlin", "--kind", "test", "--project", "web")
    [added] = run("add", "nightly", *expression, "--input", '{"branch": "main"}', "--label", "a=b")
    assert ["nightly", "active"] == added[:2]
    assert ["30 2 * * *", "Europe/Berlin", "test", "web"] == added[3:]
    assert [added] == run("list")
    run("add", "nightly", *expression, code=2)
    run("add", "other", "--cron", "61 * * * *", "--kind", "test", code=2)
    run("add", "other", "--cron", "* * * * *", "--timezone", "Mars", "--kind", "test", code=2)
    assert [["nightly", "paused", "", *added[3:]]] == run("pause", "nightly")
    assert "paused" == run("pause", "nightly")[0][1]
    assert [added] == run("resume", "nightly")
    run("remove", "nightly")
    run("remove", "nightly", code=2)
    assert [] == run("list")
    assert ["removed", "resumed", "paused", "added"] == [row[1] for row in run("history", "nightly")]
    assert {"ada"} == {row[2] for row in run("history", "nightly")}


def test_schedule_command_when_the_ledger_is_behind_a_server(tmp_path: Path) -> None:
    """Schedules need the ledger's database, and the refusal says so."""
    done = runfold("schedule", "list", "--url", "http://127.0.0.1:9", folder=tmp_path)

    assert 7 == done.code
    assert "database" in done.err


def test_schedule_add_when_asked_for_json(sqlite_url: str, tmp_path: Path) -> None:
    """All fields come as JSON, the request as it is kept."""
    done = runfold(
        *("schedule", "add", "s", "--cron", "0 0 * * *", "--kind", "k", "--exclusive-key", "e", "--missed", "skip"),
        *("--on-active", "supersede", "--json", "--url", sqlite_url),
        folder=tmp_path,
    )

    [found] = msgspec.json.decode(done.out)
    assert {"kind": "k", "exclusive_key": "e", "on_active": "supersede"} == found["request"]
    assert ("skip", False) == (found["missed"], found["is_paused"])
