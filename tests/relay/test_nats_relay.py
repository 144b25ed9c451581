"""The relay to NATS JetStream: each event once and in order, whatever is killed, against a real server."""

import json
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from builders import FULL, recorded
from command_line import RUNFOLD, environment, runfold
from nats_server import NatsServer, Stored, running_nats
from postgres_server import running_server

import ledger
from cli.relay.messages import HEADERS_BYTES, MESSAGE_ID, message_of, subject_of
from cli.relay.nats import covers


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[NatsServer]:
    with running_nats(tmp_path / "nats") as running:
        yield running


@contextmanager
def relaying(url: str, broker: NatsServer, folder: Path, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    with (folder / "relay.log").open("ab") as errors:
        process = subprocess.Popen(
            [RUNFOLD, "relay", "nats", broker.url, "--stream", "RUNS", "--url", url, *options],
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


def write(log: ledger.Ledger, runs: int = 5, lines: int = 3, **facts: object) -> None:
    made = [log.enqueue("test", **facts).id for _ in range(runs)]  # type: ignore[arg-type]
    for number in range(lines):
        for run_id in made:
            log.append_log(run_id, [f"line {number}"])


def event_ids(log: ledger.Ledger) -> list[str]:
    return [str(event.event_id) for event in log.read_all()]


def ids_of(stored: Sequence[Stored]) -> list[str]:
    return [message.headers[MESSAGE_ID] for message in stored if MESSAGE_ID in message.headers]


def wait_until(holds: Callable[[], bool], *, timeout_s: float = 40.0) -> None:
    give_up_at = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < give_up_at, "it did not come to that"
        time.sleep(0.1)


def wait_for_all(log: ledger.Ledger, broker: NatsServer) -> list[Stored]:
    """Wait until the relay has nothing left to do, and read the stream."""
    wait_until(lambda: log.find_consumer("nats-RUNS").status().events_behind_max == 0)
    return broker.stored("RUNS")


def test_relay_when_it_carries_the_log(shared_url: str, tmp_path: Path, broker: NatsServer) -> None:
    """What was and what comes arrives in order, as CloudEvents under subjects by project and type."""
    with ledger.open(shared_url, migrate=True) as log, relaying(shared_url, broker, tmp_path, "--create-stream"):
        write(log, project="web.app")
        wait_until(lambda: len(broker.stored("RUNS")) > 0)
        write(log)
        wait_until(lambda: len(broker.stored("RUNS")) == len(event_ids(log)))
        stored = wait_for_all(log, broker)

        assert event_ids(log) == ids_of(stored)
        first = json.loads(stored[0].body)
        assert ("1.0", "io.runfold.run.enqueued.v1", "/ledger/web.app") == tuple(
            first[name] for name in ("specversion", "type", "source")
        )
        assert "runfold.web%2Eapp.enqueued" == stored[0].subject
        assert "runfold._.log_appended" == stored[-1].subject
        assert "application/cloudevents+json" == stored[0].headers["content-type"]


def test_relay_when_killed_at_random(shared_url: str, tmp_path: Path, broker: NatsServer) -> None:
    """Relays are killed at random while a writer goes on: the stream has each event once, in the order of the log."""
    chance = random.Random(7)
    broker.add_stream("RUNS", subjects=["runfold.>"])
    stop = threading.Event()

    def go_on() -> None:
        with ledger.open(shared_url) as log:
            while not stop.is_set():
                write(log, runs=3, lines=4)
                time.sleep(0.02)

    with ledger.open(shared_url, migrate=True) as log:
        writer = threading.Thread(target=go_on)
        writer.start()
        try:
            for _ in range(5):
                with relaying(shared_url, broker, tmp_path):
                    time.sleep(chance.uniform(0.8, 2.0))
        finally:
            stop.set()
            writer.join()
        # the last batch of a killed relay is lent for a minute; a reset ends that, and makes it come once more
        log.find_consumer("nats-RUNS").reset(after=log.find_consumer("nats-RUNS").status().position)
        with relaying(shared_url, broker, tmp_path):
            stored = wait_for_all(log, broker)

        assert event_ids(log) == ids_of(stored)
        assert len(stored) > 100


def test_relay_when_the_duplicate_window_is_long_over(sqlite_url: str, tmp_path: Path, broker: NatsServer) -> None:
    """All that was relayed is read again after the server has forgotten its message ids: nothing comes twice."""
    broker.add_stream("RUNS", subjects=["runfold.>"], duplicate_window=0.1)
    with ledger.open(sqlite_url) as log:
        write(log)
        with relaying(sqlite_url, broker, tmp_path):
            wait_until(lambda: len(broker.stored("RUNS")) == len(event_ids(log)))
            wait_for_all(log, broker)
        time.sleep(1)
        log.find_consumer("nats-RUNS").reset()
        write(log)
        with relaying(sqlite_url, broker, tmp_path):
            wait_until(lambda: len(broker.stored("RUNS")) >= len(event_ids(log)))
            stored = wait_for_all(log, broker)

        assert event_ids(log) == ids_of(stored)


def test_relay_when_nats_is_killed(sqlite_url: str, tmp_path: Path, broker: NatsServer) -> None:
    """The NATS server is killed and comes back while events go on: the relay stays, and nothing is lost or doubled."""
    broker.add_stream("RUNS", subjects=["runfold.>"])
    with ledger.open(sqlite_url) as log, relaying(sqlite_url, broker, tmp_path) as relay:
        for _ in range(3):
            write(log)
            broker.kill()
            write(log)
            broker.start()
        wait_until(lambda: len(broker.stored("RUNS")) >= len(event_ids(log)), timeout_s=90)
        stored = wait_for_all(log, broker)

        assert event_ids(log) == ids_of(stored)
        assert relay.poll() is None


def test_relay_when_postgres_is_restarted(tmp_path: Path, broker: NatsServer) -> None:
    """The database goes away and comes back: the relay stays, and nothing is lost or doubled."""
    with running_server() as database:
        if not database.is_ours:
            pytest.skip("the named server is not ours to restart")
        url = database.create_database()
        with ledger.open(url, migrate=True) as log:
            write(log)
        with relaying(url, broker, tmp_path, "--create-stream") as relay:
            for _ in range(2):
                wait_until(lambda: len(broker.stored("RUNS")) > 0)
                database.restart("immediate")
                with ledger.open(url) as log:
                    write(log)
            with ledger.open(url) as log:
                wait_until(lambda: len(broker.stored("RUNS")) >= len(event_ids(log)), timeout_s=90)
                stored = wait_for_all(log, broker)
                assert event_ids(log) == ids_of(stored)
            assert relay.poll() is None


def test_relay_when_two_relay_and_somebody_else_publishes(shared_url: str, tmp_path: Path, broker: NatsServer) -> None:
    """Two relays and a stranger in one stream: the strangers' messages stand in between, the events in order."""
    broker.add_stream("RUNS", subjects=["runfold.>", "other"])
    with (
        ledger.open(shared_url, migrate=True) as log,
        relaying(shared_url, broker, tmp_path),
        relaying(shared_url, broker, tmp_path),
    ):
        for number in range(5):
            write(log)
            broker.publish("other", b"%d" % number)
        wait_until(lambda: len(ids_of(broker.stored("RUNS"))) >= len(event_ids(log)))
        stored = wait_for_all(log, broker)

        assert event_ids(log) == ids_of(stored)
        assert 5 == sum(message.subject == "other" for message in stored)


def test_relay_when_asked_to_end(sqlite_url: str, tmp_path: Path, broker: NatsServer) -> None:
    """SIGTERM ends it well, with nothing left lent: the next one goes on at once."""
    with ledger.open(sqlite_url) as log:
        write(log)
        with relaying(sqlite_url, broker, tmp_path, "--create-stream") as relay:
            wait_for_all_after_start(log, broker)
            relay.send_signal(signal.SIGTERM)
            assert 0 == relay.wait(30)

        assert 0 == log.find_consumer("nats-RUNS").status().lent


def wait_for_all_after_start(log: ledger.Ledger, broker: NatsServer) -> None:
    wait_until(lambda: len(broker.stored("RUNS")) == len(event_ids(log)))


def test_relay_when_an_event_is_too_large(sqlite_url: str, tmp_path: Path) -> None:
    """What is larger than the server takes goes without its data, and says where that is."""
    (tmp_path / "small.conf").write_text("max_payload: 16384\n")
    config = str(tmp_path / "small.conf")
    with ledger.open(sqlite_url) as log, running_nats(tmp_path / "nats", "-c", config) as broker:
        run_id = log.enqueue("test").id
        log.append_log(run_id, ["x" * 16_000, "y" * 16_000])
        log.append_log(run_id, ["small"])
        with relaying(sqlite_url, broker, tmp_path, "--create-stream"):
            wait_for_all_after_start(log, broker)
        clouds = [json.loads(message.body) for message in broker.stored("RUNS")]

        assert [True, False, True] == ["data" in cloud for cloud in clouds]
        assert f"/v1/runs/{run_id}/events?after=1&limit=1" == clouds[1]["dataref"]


@pytest.mark.parametrize(
    ("subjects", "says"), [(None, "there is no stream 'RUNS'"), (["else.>"], "takes else.>, and not 'runfold.*.*'")]
)
def test_relay_when_the_stream_is_not_as_it_must_be(
    sqlite_url: str, tmp_path: Path, broker: NatsServer, subjects: list[str] | None, says: str
) -> None:
    """A stream that is missing, or takes other subjects, is told at once; nothing is passed over."""
    if subjects is not None:
        broker.add_stream("RUNS", subjects=subjects)
    with ledger.open(sqlite_url) as log:
        write(log)

        done = runfold("relay", "nats", broker.url, "--stream", "RUNS", "--url", sqlite_url, folder=tmp_path)

        assert 2 == done.code
        assert says in done.err
        assert 0 == log.find_consumer("nats-RUNS").status().position


def test_relay_when_filtered(sqlite_url: str, tmp_path: Path, broker: NatsServer) -> None:
    """Types and projects narrow what is relayed."""
    with ledger.open(sqlite_url) as log:
        write(log, project="web", lines=1)
        write(log, project="api", lines=1)
        options = ("--create-stream", "--type", "enqueued", "--project", "web", "--subject-prefix", "a.b")
        with relaying(sqlite_url, broker, tmp_path, *options):
            wait_until(lambda: len(broker.stored("RUNS")) == 5)
            stored = wait_for_all(log, broker)

        assert ["a.b.web.enqueued"] * 5 == [message.subject for message in stored]


# --- messages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("project", "subject"),
    [
        (None, "p._.failed"),
        ("_", "p.%5F.failed"),
        ("web", "p.web.failed"),
        ("a.b *>/c", "p.a%2Eb%20%2A%3E%2Fc.failed"),
        ("größe", "p.gr%C3%B6%C3%9Fe.failed"),
    ],
)
def test_subject_when_the_project_is_no_token(project: str | None, subject: str) -> None:
    """Whatever a project is called, it is one token, and no two projects share one."""
    assert subject == subject_of("failed", project=project, prefix="p")


def test_message_when_at_the_limit_and_past_it() -> None:
    """The data goes along up to the server's limit, and not one byte past it."""
    (event,) = recorded([FULL["failed"]], after=6)
    size = len(message_of(event, project=None, prefix="p", bytes_max=10**6).body)

    at = message_of(event, project=None, prefix="p", bytes_max=size + HEADERS_BYTES)
    past = message_of(event, project=None, prefix="p", bytes_max=size + HEADERS_BYTES - 1)

    assert "data" in json.loads(at.body)
    assert {"data", "dataref"} & set(json.loads(past.body)) == {"dataref"}


@pytest.mark.parametrize(
    ("pattern", "is_covered"),
    [
        ("p.>", True), (">", True), ("*.>", True), ("p.*.>", True), ("p.*.*", True), ("*.*.*", True), ("p.*", False),
        ("p", False), ("q.>", False), ("p.a.*", False), ("p.*.*.*", False), ("p.*.*.>", False),
    ],
)  # fmt: skip
def test_covers_when_a_stream_takes_other_subjects(pattern: str, is_covered: bool) -> None:
    """Only a pattern that takes every project and type below the prefix will do."""
    assert is_covered is covers(pattern, "p.*.*")


def test_relay_when_there_is_no_broker(sqlite_url: str, tmp_path: Path, broker: NatsServer) -> None:
    """A broker that is not there is told of once, with its address, however often it is looked for; and once again."""
    broker.add_stream("RUNS", subjects=["runfold.>"])
    broker.kill()
    said = tmp_path / "relay.log"
    with ledger.open(sqlite_url) as log, relaying(sqlite_url, broker, tmp_path):
        wait_until(lambda: "not reachable" in said.read_text())
        time.sleep(5)
        alone = said.read_text().splitlines()
        broker.start()
        write(log, runs=1)
        wait_for_all(log, broker)

    assert 1 == len(alone), alone
    assert broker.url.removeprefix("nats://") in alone[0]
    assert "check the URL" in alone[0]
    assert [alone[0], "runfold: NATS is reachable again; the relay goes on"] == said.read_text().splitlines()
