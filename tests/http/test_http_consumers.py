"""Named consumers over HTTP, by hand and through `ledger.open("http://…")`, and on the command line."""

import http.client
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from command_line import runfold
from http_server import Server, new_token, serving, start
from postgres_server import running_server

import ledger
from cli.main import EXIT_CODES
from ledger.errors import BatchLost, ConsumerDiffers, ConsumerNotFound
from ledger.limits import BATCH_PAGES_MAX, PAGE_EVENTS
from ledger.run.events import Annotated


@pytest.fixture
def server(shared_url: str, tmp_path: Path) -> Iterator[Server]:
    with serving(shared_url, tmp_path) as running:
        yield running


def open_remote(server: Server) -> ledger.Ledger:
    host, port = server.address
    return ledger.open(f"http://{host}:{port}", token=server.token)


def positions(url: str) -> list[int]:
    with ledger.open(url) as log:
        return [event.position for event in log.read_all()]


def sequences(answer: Any) -> list[int]:
    return [int(event["sequence"]) for event in answer["events"]]


def batch_of(answer: Any) -> dict[str, int]:
    return {name: answer["batch"][name] for name in ("partition", "token", "up_to")}


def test_consumer_when_used_from_end_to_end(server: Server) -> None:
    """Made, fetched from, acknowledged, looked at, reset and removed; a batch is CloudEvents."""
    run_id = server.enqueue(project="web", labels={"env": "ci"})
    server.enqueue(project="api")
    made = server.post("/v1/consumers", {"name": "billing", "projects": ["web"], "labels": {"env": "ci"}})
    first = server.post("/v1/consumers/billing:fetch", {"limit": 5}).json
    busy = server.post("/v1/consumers/billing:fetch").json
    extended = server.post("/v1/consumers/billing:extend", {**batch_of(first), "lease_s": 90})
    lent = server.get("/v1/consumers/billing").json["places"][0]
    acknowledged = [server.post("/v1/consumers/billing:acknowledge", batch_of(first)) for _ in range(2)]

    assert (200, ["web"], {"env": "ci"}) == (made.status, made.json["projects"], made.json["labels"])
    assert [("1.0", "io.runfold.run.enqueued.v1", "/ledger/web", run_id)] == [
        tuple(event[name] for name in ("specversion", "type", "source", "subject")) for event in first["events"]
    ]
    assert {"batch": None, "events": []} == busy
    assert 200 == extended.status
    assert 60 < lent["left_s"] <= 90
    assert [(200, True), (200, False)] == [(answer.status, answer.json["moved"]) for answer in acknowledged]
    assert 0 == server.get("/v1/consumers/billing").json["events_behind_max"]
    assert 200 == server.post("/v1/consumers/billing:reset").status
    again = server.post("/v1/consumers/billing:fetch").json
    assert sequences(first) == sequences(again)
    lost = server.post("/v1/consumers/billing:hand-back", batch_of(first))
    assert (409, "batch-lost", "billing") == (lost.status, lost.json["code"], lost.json["consumer"])
    assert 200 == server.post("/v1/consumers/billing:hand-back", batch_of(again)).status
    assert ["billing"] == [each["name"] for each in server.get("/v1/consumers").json["consumers"]]
    assert 'runfold_consumer_position{consumer="billing"} 0' in server.get("/metrics").content.decode()
    assert 200 == server.post("/v1/consumers/billing:remove").status
    gone = server.post("/v1/consumers/billing:fetch")
    assert (404, "consumer-not-found") == (gone.status, gone.json["code"])


@pytest.mark.parametrize("body", [{"wait_s": 31}, {"wait_s": -1}, {"wait_s": "1"}, {"limit": 1_001}, {"lease_s": 0}])
def test_fetch_when_something_is_none(server: Server, body: dict[str, object]) -> None:
    """What is out of range is refused, and nothing is lent."""
    server.post("/v1/consumers", {"name": "one"})
    server.enqueue()

    answer = server.post("/v1/consumers/one:fetch", body)

    assert (422, "invalid-input", next(iter(body))) == (answer.status, answer.json["code"], answer.json["field"])
    assert server.get("/v1/consumers/one").json["places"][0]["left_s"] is None


def test_consumer_when_it_differs(server: Server) -> None:
    """The same wish finds it; another one is a conflict."""
    wish = {"name": "one", "types": ["failed", "completed"]}
    made, same = (server.post("/v1/consumers", wish) for _ in range(2))
    other = server.post("/v1/consumers", {**wish, "partitions": 2})

    assert (200, 200, made.json["created_at"]) == (made.status, same.status, same.json["created_at"])
    assert (409, "consumer-differs") == (other.status, other.json["code"])


def test_fetch_when_it_waits(server: Server) -> None:
    """A fetch that waits is answered as soon as something is there, holds no thread, and gives up when told to."""
    server.post("/v1/consumers", {"name": "one"})
    got: list[tuple[float, Any]] = []

    def fetch(seconds: float) -> None:
        answer = server.post("/v1/consumers/one:fetch", {"wait_s": seconds, "limit": 1})
        got.append((time.monotonic(), answer.json))

    waiting = [threading.Thread(target=fetch, args=(25,)) for _ in range(60)]
    for thread in waiting:
        thread.start()
    time.sleep(1)
    began = time.monotonic()
    assert 200 == server.get("/v1/runs").status
    assert time.monotonic() - began < 5
    server.enqueue()
    give_up_at = time.monotonic() + 10
    while not got and time.monotonic() < give_up_at:
        time.sleep(0.01)
    first = got[0]
    server.stop()
    for thread in waiting:
        thread.join(20)

    assert first[1]["batch"] is not None
    assert first[0] - began < 8
    assert 60 == len(got)
    assert 1 == sum(answer["batch"] is not None for _, answer in got)


def test_fetch_when_it_waits_for_what_does_not_come(server: Server) -> None:
    """What is not wanted ends no wait; the checkpoint is behind it all the same."""
    server.post("/v1/consumers", {"name": "one", "types": ["purged"]})
    writing = threading.Timer(0.3, server.enqueue)
    writing.start()
    began = time.monotonic()

    answer = server.post("/v1/consumers/one:fetch", {"wait_s": 1.5})

    writing.join()
    assert {"batch": None, "events": []} == answer.json
    assert time.monotonic() - began >= 1.5
    assert 0 < server.get("/v1/consumers/one").json["position"] == positions(server.ledger_url)[-1]


def test_fetch_when_whoever_waits_is_gone(server: Server) -> None:
    """A batch is not lent to somebody who has hung up."""
    server.post("/v1/consumers", {"name": "one"})
    connection = http.client.HTTPConnection(*server.address, timeout=5)
    headers = server.headers({"Content-Type": "application/json"})
    connection.request("POST", "/v1/consumers/one:fetch", json.dumps({"wait_s": 20}), headers)
    time.sleep(0.5)
    connection.close()
    time.sleep(0.5)
    server.enqueue()

    answer = server.post("/v1/consumers/one:fetch", {"wait_s": 10})

    assert answer.json["batch"] is not None


def test_consumer_when_the_token_is_bound_to_a_project(shared_url: str, tmp_path: Path) -> None:
    """A consumer gives its maker's projects and no others, and is not there for whoever may see less."""
    with serving(shared_url, tmp_path, "--auth") as server:
        scope = ("--scope", "events:read")
        web, api = (new_token(shared_url, tmp_path, *scope, "--project", name, name=name) for name in ("web", "api"))
        server.enqueue(project="api")
        mine = server.enqueue(project="web")
        made = server.post("/v1/consumers", {"name": "web"}, Authorization=f"Bearer {web}")
        fetched = server.post("/v1/consumers/web:fetch", Authorization=f"Bearer {web}").json
        wider = server.post("/v1/consumers", {"name": "x", "projects": ["web", "api"]}, Authorization=f"Bearer {web}")
        foreign = server.post("/v1/consumers/web:acknowledge", batch_of(fetched), Authorization=f"Bearer {api}")
        server.post("/v1/consumers", {"name": "all"})
        beyond = server.get("/v1/consumers/all", Authorization=f"Bearer {web}")

        assert ["web"] == made.json["projects"]
        assert [mine] == [event["subject"] for event in fetched["events"]]
        assert (403, "project-refused") == (wider.status, wider.json["code"])
        assert [(404, "consumer-not-found")] * 2 == [(a.status, a.json["code"]) for a in (foreign, beyond)]


# --- the same interface behind a server ---------------------------------------------------------------------------


def test_remote_consumer_when_used(server: Server) -> None:
    """What a consumer does on a database it does behind a server: batches, errors, status."""
    with open_remote(server) as remote, ledger.open(server.ledger_url) as local:
        run_id = remote.enqueue("test", project="web").id
        remote.append_log(run_id, ["hello"])
        consumer = remote.consumer("one", projects=["web"], types=["log_appended"])
        batch = consumer.fetch(wait_s=1)
        assert batch is not None
        assert [("hello",)] == [tuple(event.data.lines) for event in batch.events]  # type: ignore[union-attr]
        assert local.find_consumer("one").settings == consumer.settings
        assert local.find_consumer("one").status().lent == consumer.status().lent == 1
        consumer.extend(batch)
        assert [True, False] == [consumer.acknowledge(batch) for _ in range(2)]
        assert consumer.fetch() is None
        consumer.reset()
        again = consumer.fetch()
        assert again is not None
        consumer.hand_back(again)
        with pytest.raises(BatchLost, match="not yours"):
            consumer.acknowledge(again)
        with pytest.raises(ConsumerDiffers):
            remote.consumer("one")
        assert ["one"] == [each.name for each in remote.consumers()]
        remote.find_consumer("one").remove()
        with pytest.raises(ConsumerNotFound):
            remote.find_consumer("one")


class RemoteReader(threading.Thread):
    """Reads behind whatever server there is, and dies with its batch now and then."""

    def __init__(self, url: str, token: str | None, *, seed: int) -> None:
        super().__init__(daemon=True)
        self.acknowledged: list[ledger.Batch] = []
        self.ends = threading.Event()
        self._url = url
        self._token = token
        self._chance = random.Random(seed)

    def run(self) -> None:
        with ledger.open(self._url, token=self._token) as log:
            consumer = log.consumer("shared", partitions=3)
            while not (self.ends.is_set() and consumer.status().events_behind_max == 0):
                batch = consumer.fetch(limit=self._chance.randint(1, 30), lease_s=1, wait_s=0.2)
                if batch is not None and self._chance.random() > 0.05:
                    with suppress(BatchLost):
                        consumer.acknowledge(batch)
                        self.acknowledged.append(batch)


def test_remote_consumer_when_much_is_not_wanted(server: Server) -> None:
    """A fetch through a server gives None at the log's end, not behind so many events that nobody wants."""
    with open_remote(server) as remote, ledger.open(server.ledger_url) as local:
        run_id = local.enqueue("test").id
        for _ in range(BATCH_PAGES_MAX + 1):
            local.append(run_id, [Annotated(note="not wanted")] * PAGE_EVENTS)
        local.abort(run_id)
        consumer = remote.consumer("one", types=["aborted"])

        batch = consumer.fetch()

        assert batch is not None
        assert ["aborted"] == [event.type for event in batch.events]
        assert consumer.acknowledge(batch)
        assert consumer.fetch() is None


def test_remote_consumer_when_the_server_is_killed(shared_url: str, tmp_path: Path) -> None:
    """Servers are killed under readers that share a consumer, while a writer goes on: no event is left out, and the
    runs' events come in order."""
    with serving(shared_url, tmp_path) as first:
        servers = [first]
        readers = [RemoteReader(first.url, first.token, seed=seed) for seed in range(4)]
        for reader in readers:
            reader.start()
        try:
            with ledger.open(shared_url) as log:
                for _ in range(2):
                    runs = [log.enqueue("test").id for _ in range(10)]
                    for number in range(5):
                        for run_id in runs:
                            log.append_log(run_id, [f"line {number}"])
                    servers[-1].kill()
                    again = start(shared_url, tmp_path, port=first.address[1])
                    servers.append(again)
            for reader in readers:
                reader.ends.set()
            for reader in readers:
                reader.join(90)
                assert not reader.is_alive()
        finally:
            for server in servers[1:]:
                server.kill()

    seen = {event.position for reader in readers for batch in reader.acknowledged for event in batch.events}
    assert positions(shared_url) == sorted(seen)


def test_remote_consumer_when_postgres_is_restarted(tmp_path: Path) -> None:
    """The database goes away and comes back under readers behind a server: no event is left out."""
    with running_server() as database:
        if not database.is_ours:
            pytest.skip("the named server is not ours to restart")
        url = database.create_database()
        ledger.open(url, migrate=True).close()
        with serving(url, tmp_path) as server:
            readers = [RemoteReader(server.url, server.token, seed=seed) for seed in range(3)]
            for reader in readers:
                reader.start()
            for _ in range(2):
                with ledger.open(url) as log:
                    for _ in range(40):
                        log.enqueue("test")
                database.restart("immediate")
            for reader in readers:
                reader.ends.set()
            for reader in readers:
                reader.join(90)
                assert not reader.is_alive()
        seen = {event.position for reader in readers for batch in reader.acknowledged for event in batch.events}
        assert positions(url) == sorted(seen)


# --- on the command line ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_remote", [False, True], ids=["local", "remote"])
def test_consumer_commands(server: Server, tmp_path: Path, is_remote: bool) -> None:
    """Listed with its lag, shown by partition, reset and removed; behind a server too."""
    env = {"RUNFOLD_URL": server.url if is_remote else server.ledger_url, "RUNFOLD_TOKEN": server.token or ""}
    server.enqueue()
    server.post("/v1/consumers", {"name": "billing", "partitions": 2})

    def run(*args: str) -> Any:
        return runfold("consumer", *args, folder=tmp_path, env=env)

    listed, shown = run("list"), run("show", "billing")
    document = json.loads(run("list", "--json").out)
    unclear, reset, removed, gone = (
        run("reset", "billing"),
        run("reset", "billing", "--now"),
        run("remove", "billing"),
        run("show", "billing"),
    )

    assert [0, 0, 2, 0, 0, 3] == [done.code for done in (listed, shown, unclear, reset, removed, gone)], gone.err
    assert ["billing", "0", "1", "0", "2"] == [listed.rows[0][column] for column in (0, 1, 3, 5, 6)]
    assert [["0", "0"], ["1", "0"]] == [row[:2] for row in shown.rows]
    assert [("billing", 2)] == [(each["name"], each["partitions"]) for each in document]
    assert str(positions(server.ledger_url)[-1]) == reset.rows[0][1]
    assert "there is no consumer 'billing'" in gone.err
    assert {3, 5} == {EXIT_CODES[name] for name in ("ConsumerNotFound", "ConsumerDiffers", "BatchLost")}
