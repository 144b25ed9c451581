"""Daemons that are killed around each delivery: no callback is lost, and none is repeated once its success is known."""

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from command_line import RUNFOLD, environment, runfold
from webhook_receiver import receiving

import ledger
from cli.outbox.deliveries import open_outbox_table


@contextmanager
def a_daemon(url: str, folder: Path, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    with (folder / "daemon.log").open("ab") as errors:
        process = subprocess.Popen(
            [RUNFOLD, "daemon", "--url", url, "--allow-network", "127.0.0.0/8", *options],
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


def test_daemon_when_it_is_killed_in_each_call(shared_url: str, tmp_path: Path) -> None:
    """Killed while a call is under way, the next daemon makes it again under the same id; then it is made no more."""
    with ledger.open(shared_url, migrate=True) as log, receiving() as receiver:
        runs = [log.enqueue("test", worker="w1", callback_url=receiver.url).id for _ in range(3)]
        for count, run in enumerate(runs, 1):
            receiver.delay_s = 5.0
            log.complete(run)
            with a_daemon(shared_url, tmp_path, "--callback-timeout", "500ms") as daemon:
                receiver.wait_for(2 * count - 1)
                daemon.kill()
            receiver.delay_s = 0.0
            with a_daemon(shared_url, tmp_path, "--callback-timeout", "500ms"):
                receiver.wait_for(2 * count)
                wait_for_delivered(log, count)
        with a_daemon(shared_url, tmp_path), a_daemon(shared_url, tmp_path):
            time.sleep(2.0)

        calls = [call.webhook_id for call in receiver.calls]
        assert 6 == len(calls)
        assert [calls[0], calls[0], calls[2], calls[2], calls[4], calls[4]] == calls
        assert 3 == len(set(calls))


def test_daemon_when_it_is_killed_at_any_time(shared_url: str, tmp_path: Path) -> None:
    """However often daemons die while runs end, every run is called back for."""
    with ledger.open(shared_url, migrate=True) as log, receiving() as receiver:
        receiver.delay_s = 0.05
        ended = []
        for round in range(4):
            for _ in range(10):
                run = log.enqueue("test", worker="w1", callback_url=receiver.url).id
                log.fail(run, error="boom")
                ended.append(run)
            with a_daemon(shared_url, tmp_path, "--callback-timeout", "500ms"):
                receiver.wait_for(1 + 5 * round)  # so that it dies in the middle of its work
        with a_daemon(shared_url, tmp_path, "--callback-timeout", "500ms"):
            wait_for_delivered(log, len(ended))

        told = {call.webhook_id for call in receiver.calls}
        assert {str(event_id) for event_id in closing_events(log, ended)} == told


def test_daemon_when_it_is_asked_to_end(sqlite_url: str, tmp_path: Path) -> None:
    """Asked to end while a call is under way, a daemon waits for it, records it, and ends well."""
    with ledger.open(sqlite_url) as log, receiving() as receiver:
        receiver.delay_s = 1.0
        log.complete(log.enqueue("test", worker="w1", callback_url=receiver.url).id)
        with a_daemon(sqlite_url, tmp_path) as daemon:
            receiver.wait_for(1)
            daemon.send_signal(signal.SIGTERM)
            assert 0 == daemon.wait(30)

        assert {"delivered": 1} == open_outbox_table(log.store).count()


def test_daemon_log_when_a_receiver_forges_a_line(sqlite_url: str, tmp_path: Path) -> None:
    """What a receiver answers is told within one line, and cannot steer the terminal that shows it."""
    with ledger.open(sqlite_url) as log, receiving() as receiver:
        receiver.answers = [500]
        receiver.said = "no\nrunfold: called back for run 7\x1b[31m red\x9b1m\u2028\r\x1b".encode()
        log.abort(log.enqueue("test", callback_url=receiver.url).id)
        with a_daemon(sqlite_url, tmp_path, "--callback-attempts", "1"):
            wait_until_counted(log, {"failed": 1})

    [line] = [line for line in (tmp_path / "daemon.log").read_text().splitlines() if "gave up" in line]
    assert line.endswith(r"answered 500. no runfold: called back for run 7 red\x9b1m \x1b"), line


def test_callback_commands_when_used_together(sqlite_url: str, tmp_path: Path) -> None:
    """What is added is listed, hears of a run, and is removed; what failed is shown and retried."""

    def run(*args: str, code: int = 0) -> list[list[str]]:
        done = runfold(*args, "--url", sqlite_url, folder=tmp_path)
        assert code == done.code, done.err
        return done.rows

    with ledger.open(sqlite_url) as log, receiving() as receiver:
        receiver.answers = [500]
        [[secret, callback_id]] = run("callback", "add", receiver.url, "--kind", "test")
        assert re.fullmatch(r"whsec_[A-Za-z0-9+/=]{44}", secret)
        assert [callback_id, receiver.url] == run("callback", "list")[0][:2]
        log.abort(log.enqueue("test").id)
        with a_daemon(sqlite_url, tmp_path, "--callback-attempts", "1"):
            receiver.wait_for(1)
            wait_until_counted(log, {"failed": 1})
            [failed] = run("callback", "deliveries", "--state", "failed")
            assert [callback_id, "failed", "1"] == [failed[1], *failed[3:5]]
            run("callback", "retry", code=2)
            assert [["1"]] == run("callback", "retry", failed[0])
            wait_until_counted(log, {"delivered": 1})
        assert [[callback_id, "removed"]] == run("callback", "remove", callback_id)
        run("callback", "remove", callback_id, code=2)
        assert [] == run("callback", "list")
        assert run("callback", "secret") == run("callback", "secret") != [[secret]]


def wait_for_delivered(log: ledger.Ledger, count: int) -> None:
    wait_until_counted(log, {"delivered": count})


def wait_until_counted(log: ledger.Ledger, wanted: dict[str, int]) -> None:
    table = open_outbox_table(log.store)
    give_up_at = time.monotonic() + 40
    while table.count() != wanted:
        assert time.monotonic() < give_up_at, table.list(state=None, limit=50)
        time.sleep(0.05)


def closing_events(log: ledger.Ledger, runs: list[str]) -> list[str]:
    return [list(log.read(run))[-1].envelope.event_id for run in runs]
