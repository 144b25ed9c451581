"""A ledger behind a server when answers are lost, or are none: nothing is written twice, and nothing is silent."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from http_server import Server, serving
from lossy_proxy import Loss, LossyProxy, losing

import ledger
from ledger import InvalidInput, Ledger, OutcomeUnknown, RunNotFound, StoreUnavailable
from ledger.ids import new_event_ids

UNKNOWN = "0192f3a0-0000-7000-8000-0000000003e7"
PATIENCE_S = 20.0


@pytest.fixture
def server(sqlite_url: str, tmp_path: Path) -> Iterator[Server]:
    with serving(sqlite_url, tmp_path) as running:
        yield running


@pytest.fixture
def proxy(server: Server) -> Iterator[LossyProxy]:
    with losing(server.address) as running:
        yield running


@pytest.fixture
def remote(proxy: LossyProxy) -> Iterator[Ledger]:
    with ledger.open(proxy.url) as opened:
        yield opened


@pytest.fixture
def local(server: Server) -> Iterator[Ledger]:
    with ledger.open(server.ledger_url) as opened:
        yield opened


ONCE: dict[str, Callable[[Ledger, str], Any]] = {
    "/artifacts": lambda log, run: log.record_artifact(run, "report", "s3://r"),
    "/notes": lambda log, run: log.annotate(run, note="once"),
    "/shards/0:retry": lambda log, run: log.retry_shard(run, 0),
    "/shards:count": lambda log, run: log.increment_shards_completed(run),
    ":finish-gate": lambda log, run: log.finish_gate(run, "lint", "passed"),
    ":interrupt": lambda log, run: log.interrupt(run, reason="once"),
    ":resume": lambda log, run: log.resume(run, worker="w2"),
    ":fail-attempt": lambda log, run: log.fail_attempt(run, error="once"),
}


@pytest.mark.parametrize("how", ["cut", "unknown"])
def test_append_when_its_answer_is_lost(remote: Ledger, local: Ledger, proxy: LossyProxy, how: Loss) -> None:
    """What has no id of its own is sent once, however its answer is lost, and the caller is told."""
    run = remote.enqueue("test", shard_count=2, attempts_max=2, worker="w1").id

    for before, (part, append) in enumerate(ONCE.items(), start=2):
        proxy.lose(part, how)
        with pytest.raises(OutcomeUnknown, match="Read the run"):
            append(remote, run)
        assert before + 1 == len(list(local.read(run)))


@pytest.mark.parametrize("how", ["cut", "unknown"])
def test_retry_when_its_answer_is_lost(remote: Ledger, local: Ledger, proxy: LossyProxy, how: Loss) -> None:
    """A retry without a key is asked for once; one with a key is the same run when it is asked for again."""
    run = remote.enqueue("test").id
    remote.abort(run)
    proxy.lose(":retry", how)

    with pytest.raises(OutcomeUnknown):
        remote.retry(run)
    proxy.lose(":retry", how)
    remote.retry(run, idempotency_key="k")

    assert 3 == len({event.run_id for event in local.read_all()})


@pytest.mark.parametrize("how", ["cut", "unknown"])
def test_enqueue_when_its_answer_is_lost(remote: Ledger, local: Ledger, proxy: LossyProxy, how: Loss) -> None:
    """An enqueue that came through is found again by its run id."""
    proxy.lose("/v1/runs", how)

    made = remote.enqueue("test", exclusive_key="x", on_active="supersede")

    assert [(made.id, "enqueued")] == [(event.run_id, event.type) for event in local.read_all()]


@pytest.mark.parametrize("how", ["cut", "unknown"])
def test_command_when_its_answer_is_lost(remote: Ledger, local: Ledger, proxy: LossyProxy, how: Loss) -> None:
    """What carries an event id is sent again, and counts once."""
    run = remote.enqueue("test", worker="w1").id
    proxy.lose("/results", how)
    proxy.lose("/logs", how)
    proxy.lose(":complete", how)
    proxy.lose(":complete", how)

    assert 1 == remote.append_results(run, [{"status": "passed"}])
    assert 1 == remote.append_log(run, ["once"])
    assert remote.expecting(4).complete(run)
    expected = ["enqueued", "started", "shard_result_appended", "log_appended", "completed"]
    assert expected == [each.type for each in local.read(run)]


def test_claim_when_its_answer_is_lost(remote: Ledger, proxy: LossyProxy) -> None:
    """A claim is not sent twice."""
    remote.enqueue("test")
    proxy.lose(":claim", "cut")

    with pytest.raises(OutcomeUnknown):
        remote.claim("w1")

    assert 1 == proxy.asked.count(("POST", "/v1/runs:claim"))


def test_answer_when_it_is_none(remote: Ledger, proxy: LossyProxy) -> None:
    """What a proxy says instead of the server is told with its status."""
    proxy.lose("/v1/tasks", "moved")

    with pytest.raises(StoreUnavailable, match=r"301.*moved"):
        remote.tasks()

    assert [] == list(remote.tasks())


def test_append_results_when_they_cannot_be_one_event(remote: Ledger, local: Ledger) -> None:
    """Results are checked as a whole before the first of them is sent."""
    run = remote.enqueue("test").id
    rows: list[Any] = [{"status": "passed"}] * 1_500
    [event_id] = new_event_ids(1)

    for log in (local, remote):
        with pytest.raises(InvalidInput, match="is one id, and this makes 2 events"):
            log.append_results(run, rows, event_id=event_id)
        with pytest.raises(InvalidInput, match=r"results\[1500\]"):
            log.append_results(run, [*rows, {}])

    assert 1 == len(list(local.read(run)))
    assert 1_500 == remote.append_results(run, rows) == local.state(run).passed


def test_log_when_it_cannot_be_one_event(remote: Ledger, local: Ledger) -> None:
    """Output of any size and any characters is the same lines on a database and behind a server."""
    lines = ["x" * 16_000] * 10 + ["\ud800", "é\0"] + ["short"] * 1_500
    here, there = (log.enqueue("test").id for log in (local, remote))

    assert len(lines) == local.append_log(here, lines) == remote.append_log(there, lines)
    assert [each.data.lines for each in local.read(here, after_version=1)] == [
        each.data.lines for each in local.read(there, after_version=1)
    ]


@pytest.mark.parametrize("length_s", [600.0, 5.0])
def test_look_when_a_lease_is_held(remote: Ledger, length_s: float) -> None:
    """A look leaves the deadline where it was, and tells of an abort."""
    run = remote.enqueue("test").id
    [lease] = remote.claim("w1", lease_s=length_s)
    remote.request_abort(run)

    [seen] = remote.look([lease])
    [again] = remote.look([lease])

    assert (True, True, lease.deadline) == (seen.is_held, seen.abort_requested, seen.deadline)
    assert seen == again
    assert [] == remote.look([])


def test_look_when_the_lease_is_lost(remote: Ledger, local: Ledger) -> None:
    """A look at what went to another hears so, and writes nothing."""
    run = remote.enqueue("test", attempts_max=2).id
    [lease] = remote.claim("w1")
    local.fail_attempt(run, error="no")
    before = len(list(local.read(run)))

    assert [False] == [seen.is_held for seen in remote.look([lease])]
    assert before == len(list(local.read(run)))


@pytest.mark.parametrize("name", ["heartbeat", "look"])
def test_leases_when_there_are_too_many(remote: Ledger, local: Ledger, name: str) -> None:
    """As many leases as are allowed are asked after at once, and not one more."""
    for log in (local, remote):
        log.enqueue("test")
        leases = log.claim("w1") * ledger.limits.LEASES_PER_HEARTBEAT_MAX

        assert all(seen.is_held for seen in getattr(log, name)(leases))
        with pytest.raises(InvalidInput, match="10,001 leases"):
            getattr(log, name)([*leases, leases[0]])


def test_leases_when_there_were_many(remote: Ledger, proxy: LossyProxy) -> None:
    """A client keeps nothing of leases that are over; a lease says itself to the server, through any client."""
    before = sizes(remote)
    for _ in range(5):
        remote.enqueue("test")
        [lease] = remote.claim("w1")
        remote.succeed(lease)
    remote.enqueue("test")
    [lease] = remote.claim("w1")

    assert before == sizes(remote)
    with ledger.open(proxy.url) as other:
        assert other.succeed(lease)


def sizes(log: Ledger) -> dict[str, int]:
    return {name: len(held) for name, held in vars(log).items() if isinstance(held, dict | list | set)}


@pytest.mark.parametrize("how", [{"types": ["x" * 300]}, {"types": "enqueued"}, {"run_id": UNKNOWN}])
def test_subscription_when_it_is_refused(remote: Ledger, how: dict[str, Any]) -> None:
    """A subscription that can never give anything says why."""
    told: list[BaseException] = []

    def follow() -> None:
        try:
            next(remote.subscribe(**how))
        except BaseException as error:
            told.append(error)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)

    assert [RunNotFound if "run_id" in how else InvalidInput] == [type(error) for error in told]


def test_subscription_when_a_page_answers(remote: Ledger, proxy: LossyProxy) -> None:
    """A stream that is none is told, not waited for."""
    proxy.lose("/stream", "moved")
    run = remote.enqueue("test").id
    remote.abort(run)

    with pytest.raises(StoreUnavailable, match="301"):
        next(remote.subscribe(run_id=run))


def test_words_when_a_header_cannot_carry_them(remote: Ledger, local: Ledger) -> None:
    """Keys, correlation and causation ids may be any text that a database takes."""
    for text in ("日本", "a\nb", " spaced ", '%"odd"', 'a "quoted\\ one', "é", "x" * 255, "日" * 255):
        bound = remote.bind(correlation_id=text, causation_id=text)

        made, again = (bound.enqueue("test", idempotency_key=text) for _ in range(2))

        assert (made.id, False) == (again.id, again.is_new)
        assert (text, text) == ((event := next(local.read(made.id))).correlation_id, event.causation_id)
        assert made.id == local.find_by_idempotency_key(text)


WRONG: dict[str, Callable[[Ledger], object]] = {
    "key": lambda log: log.enqueue("test", idempotency_key="\ud800"),
    "long key": lambda log: log.enqueue("test", idempotency_key="日" * 256),
    "input": lambda log: log.enqueue("test", input=[1]),  # type: ignore[arg-type]
    "labels": lambda log: log.enqueue("test", labels=[1]),  # type: ignore[arg-type]
    "plan": lambda log: log.enqueue("test", plan=5),  # type: ignore[arg-type]
    "worker": lambda log: log.enqueue("test", worker=5),  # type: ignore[arg-type]
    "on_active": lambda log: log.enqueue("test", on_active="no"),  # type: ignore[arg-type]
    "correlation id": lambda log: log.bind(correlation_id="\ud800"),
    "actor": lambda log: log.bind(actor="x" * 201),
    "types": lambda log: list(log.read_all(types="enqueued")),
    "kinds": lambda log: log.claim("w1", kinds="test"),
    "note": lambda log: log.annotate(UNKNOWN, labels=[1]),  # type: ignore[arg-type]
    "lines": lambda log: log.append_log(UNKNOWN, 5),  # type: ignore[arg-type]
    "results": lambda log: log.append_results(UNKNOWN, 5),  # type: ignore[arg-type]
    "skipped": lambda log: log.abort(UNKNOWN, skipped=[{}]),
}


def test_input_when_it_is_wrong(remote: Ledger, local: Ledger) -> None:
    """What a database refuses is refused behind a server with the same words."""
    for what, ask in WRONG.items():
        with pytest.raises(InvalidInput) as here:
            ask(local)
        with pytest.raises(InvalidInput) as there:
            ask(remote)
        assert str(here.value) == str(there.value), what

    assert [] == list(local.read_all())


def test_input_of_when_there_is_no_run(remote: Any) -> None:
    """The input of a run that does not exist is not found."""
    with pytest.raises(RunNotFound):
        remote.input_of(UNKNOWN)


MANY: list[Any] = [
    {},
    "test",
    {"kind": "test", "worker": "w1"},
    {"kind": "test", "idempotency_key": "k"},
    {"kind": "test", "on_active": "return"},
    {"kind": "test", "colour": "red"},
    {"kind": "test", "input": [1]},
    {"kind": "test", "labels": {"a": "b"}},
]


def test_enqueue_all_when_some_are_wrong(remote: Ledger, local: Ledger, proxy: LossyProxy) -> None:
    """Each of many is made or refused as on a database, and too many are refused before the first."""
    here, there = local.enqueue_all(MANY), remote.enqueue_all(MANY)

    assert [str(each) for each in here[:-1]] == [str(each) for each in there[:-1]]
    assert all(isinstance(each, ledger.RunHandle) for each in (here[-1], there[-1]))
    for asked, by in (([{}] * 10_001, None), (MANY, [remote])):
        with pytest.raises(InvalidInput):
            remote.enqueue_all(asked, by=by)
    assert [("POST", "/v1/runs")] == proxy.asked


def test_enqueue_all_when_the_server_is_gone(remote: Ledger, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience is spent once, not for each of many."""
    monkeypatch.setattr("ledger.remote.TRY_S", 1.0)
    server.kill()
    gone = ledger.open(server.url)

    began = time.monotonic()
    outcomes = gone.enqueue_all([{"kind": "test"}] * 50)

    assert [StoreUnavailable] * 50 == [type(each) for each in outcomes]
    assert time.monotonic() - began < 10


def test_headers_when_they_are_no_display_strings(server: Server) -> None:
    """What begins like a Display String and is none is refused; so is an empty key."""
    for text in ('%"b%C3"', '%"b%ff"', '%"', '%"b', '%"%zz"'):
        key = server.post("/v1/runs", {"kind": "test"}, Idempotency_Key=text)
        correlation_id = server.post("/v1/runs", {"kind": "test"}, X_Correlation_Id=text)

        assert (400, "malformed-key") == (key.status, key.json["code"])
        assert (400, "malformed-request") == (correlation_id.status, correlation_id.json["code"])
    assert 422 == server.post("/v1/runs", {"kind": "test"}, Idempotency_Key='%""').status
