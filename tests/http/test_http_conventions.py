"""Keys, versions, sizes, rates, ids and problems: what every operation does alike."""

import asyncio
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from http_server import Server, new_token, serving

import ledger
from cli.http.app import Options, Service
from cli.http.auth import EVERYBODY
from cli.http.limits import BODY_BYTES_MAX, WRITERS
from cli.http.messages import EnqueueBody, Nothing
from cli.http.operations import Call
from cli.http.problems import RequestInFlight
from ledger.errors import LedgerError


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("conventions")
    url = f"sqlite:///{folder / 'runs.db'}"
    if request.param == "postgres":
        database = request.getfixturevalue("postgres_server")
        url = database.create_database(template=request.getfixturevalue("postgres_template"))
    with serving(url, folder) as running:
        yield running
    if request.param == "postgres":
        database.drop_database(url)


# --- idempotency ------------------------------------------------------------------------------------------------


def test_key_when_sent_fifty_times_at_once(server: Server) -> None:
    """The same key and body, fifty times at once, make one run; who is too early is told to come back."""
    barrier = threading.Barrier(50)

    def send(_: int) -> tuple[int, str | None, str | None]:
        barrier.wait()
        answer = server.post("/v1/runs", {"kind": "test", "project": "once"}, Idempotency_Key='"fifty"')
        return answer.status, answer.json.get("run_id"), answer.headers.get("idempotency-replayed")

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(send, range(50)))

    statuses = Counter(status for status, _, _ in answers)
    assert (1, {200, 201, 409}) == (statuses[201], {200, 201, 409} | set(statuses))
    assert {"count": 1} == server.get("/v1/runs:count?project=once").json
    assert 1 == len({run_id for status, run_id, _ in answers if status < 300})
    assert {"true"} >= {replayed for status, _, replayed in answers if status == 200}
    again = server.post("/v1/runs", {"kind": "test", "project": "once"}, Idempotency_Key="fifty")
    assert (200, "true") == (again.status, again.headers["idempotency-replayed"])


def test_key_when_the_body_differs(server: Server) -> None:
    """The same key with another body is refused, even after a purge; in another project it is another key."""
    first = server.post("/v1/runs", {"kind": "test", "project": "web"}, Idempotency_Key="k1").json["run_id"]
    other = {"kind": "other", "project": "web"}

    refused = server.post("/v1/runs", other, Idempotency_Key="k1")
    server.post(f"/v1/runs/{first}:abort")
    server.post(f"/v1/runs/{first}:delete")
    assert 200 == server.post(f"/v1/runs/{first}:purge").status
    purged = server.post("/v1/runs", other, Idempotency_Key="k1")
    replayed = server.post("/v1/runs", {"kind": "test", "project": "web"}, Idempotency_Key="k1")

    assert [(422, "idempotency-mismatch", first)] * 2 == [
        (answer.status, answer.json["code"], answer.json["run_id"]) for answer in (refused, purged)
    ]
    assert (200, first) == (replayed.status, replayed.json["run_id"])
    assert 201 == server.post("/v1/runs", {"kind": "other", "project": "api"}, Idempotency_Key="k1").status


@pytest.mark.parametrize("key", ['"open', '"a"b"', '""', "x" * 256, "a\tb", '"bad \\escape"'])
def test_key_when_malformed(server: Server, key: str) -> None:
    """A key that is none is a 400, and nothing is written."""
    before = server.get("/v1/runs:count").json

    refused = server.post("/v1/runs", {"kind": "test"}, Idempotency_Key=key)

    assert (400, "malformed-key") == (refused.status, refused.json["code"])
    assert before == server.get("/v1/runs:count").json


def test_key_when_quoted_or_bare(server: Server) -> None:
    """A structured-field string and the bare text are the same key."""
    keys = ['"a \\"b\\" c"', 'a "b" c']

    made = [server.post("/v1/runs", {"kind": "test", "project": "quotes"}, Idempotency_Key=key) for key in keys]

    assert [201, 200] == [answer.status for answer in made]


# --- versions ---------------------------------------------------------------------------------------------------


def test_version_when_the_run_has_moved_on(server: Server) -> None:
    """A command for a version is done at that version or not at all, and says which one it is at now."""
    run = f"/v1/runs/{server.enqueue()}"
    shown = server.get(run)

    started = server.post(f"{run}:start", {"worker": "w1"}, If_Match=shown.headers["etag"])
    stale = server.post(f"{run}:abort", {}, If_Match=shown.headers["etag"])
    fresh = server.post(f"{run}:abort", {}, If_Match=started.headers["etag"])

    assert ('"1"', '"2"') == (shown.headers["etag"], started.headers["etag"])
    assert (412, "version-conflict", 1, 2) == (
        stale.status,
        stale.json["code"],
        stale.json["expected_version"],
        stale.json["version"],
    )
    assert (200, "aborted") == (fresh.status, server.get(run).json["status"])


def test_version_when_two_decide_at_once(server: Server) -> None:
    """Of writers that saw the same version, one wins."""
    run = f"/v1/runs/{server.enqueue()}"
    server.post(f"{run}:start", {"worker": "w1"})
    etag = server.get(run).headers["etag"]

    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda n: server.post(f"{run}:enter-phase", {"phase": f"p{n}"}, If_Match=etag), range(8))
        )

    assert {200: 1, 412: 7} == Counter(answer.status for answer in answers)


def test_version_when_it_cannot_be_waited_for(server: Server) -> None:
    """What commutes takes no version, and a header that is none is refused rather than ignored."""
    run = f"/v1/runs/{server.enqueue()}"

    assert 400 == server.post(f"{run}/logs", {"lines": ["x"]}, If_Match='"1"').status
    assert 400 == server.post(f"{run}:abort", {}, If_Match="7").status
    assert 0 == server.get(run).json["log_line_count"]


def test_run_when_not_changed(server: Server) -> None:
    """A run that the caller has is not sent again."""
    run = f"/v1/runs/{server.enqueue()}"

    assert (304, b"") == server.get(run, If_None_Match='"1"')[::2]
    assert 200 == server.get(run, If_None_Match='"2"').status


# --- who was first ----------------------------------------------------------------------------------------------


def test_command_when_somebody_was_first(server: Server) -> None:
    """Who comes second is refused and told who won: their event, actor, version and time."""
    run = f"/v1/runs/{server.enqueue()}"
    server.post(f"{run}:start", {"worker": "w1"}, Runfold_Actor="ada")
    taken = server.post(f"{run}:start", {"worker": "w2"})
    won = server.post(f"{run}:complete", {}).json["event"]
    closed = server.post(f"{run}:fail", {"error": "late"})

    assert (409, "run-taken", "w1") == (taken.status, taken.json["code"], taken.json["worker"])
    assert (409, "run-closed") == (closed.status, closed.json["code"])
    assert won == closed.json["winner"]
    assert {"appended": 0} == server.post(f"{run}/results", {"results": [{"status": "passed"}]}).json


def test_command_when_sent_again_with_its_event_id(server: Server) -> None:
    """A repeated command with an event id of the caller's own gives the first answer, and one event."""
    run = f"/v1/runs/{server.enqueue()}"
    body = {"worker": "w1", "event_id": "01a1fd75-100e-7000-98e1-7a01c6c8d8%02x" % (server.address[1] % 256)}

    first, second = [server.post(f"{run}:start", body) for _ in range(2)]

    assert (200, 200) == (first.status, second.status)
    assert first.json["version"] == second.json["version"]
    assert 2 == server.get(run).json["version"]


# --- sizes and forms --------------------------------------------------------------------------------------------


def test_body_when_too_large_and_it_says_so(server: Server) -> None:
    """A body that is announced as too large is refused before it is sent."""
    with socket.create_connection(server.address, timeout=10) as connection:
        head = f"POST /v1/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: {BODY_BYTES_MAX + 1}\r\n"
        bearer = f"Authorization: Bearer {server.token}\r\n" if server.token else ""
        connection.sendall(f"{head}{bearer}Content-Type: application/json\r\n\r\n".encode())

        assert b" 413 " in connection.recv(65_536).partition(b"\r\n")[0]


def test_body_when_too_large_and_it_does_not_say_so(server: Server) -> None:
    """A body in chunks is refused once it is too long."""
    with socket.create_connection(server.address, timeout=10) as connection:
        bearer = f"Authorization: Bearer {server.token}\r\n" if server.token else ""
        head = f"POST /v1/runs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n{bearer}"
        connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode())
        chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
        answer = b""
        try:
            for _ in range(BODY_BYTES_MAX // 65_536 + 1):
                connection.sendall(chunk)
            answer = connection.recv(65_536)
        except OSError:
            answer = answer or connection.recv(65_536)

        assert b" 413 " in answer.partition(b"\r\n")[0]


def test_body_when_at_its_limit(server: Server) -> None:
    """A body of exactly the limit is read."""
    body = json.dumps({"kind": "test"}).encode()

    assert 201 == server.ask("POST", "/v1/runs", raw=body + b" " * (BODY_BYTES_MAX - len(body))).status


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"{", 400, "malformed-request"),
        (b"\xff{}", 400, "malformed-request"),
        (b'{"kind": "\xff"}', 400, "malformed-request"),
        (b'{"kind": "test", "input": {"a": ' + b"[" * 5_000, 400, "malformed-request"),
        (b"[]", 422, "invalid-input"),
        (b"{}", 422, "invalid-input"),
        (b'{"kind": 7}', 422, "invalid-input"),
        (b'{"kind": "test", "kinds": "x"}', 422, "invalid-input"),
        (b'{"kind": "test", "input": {"a": 9007199254740993}}', 422, "invalid-input"),
        (b'{"kind": "te\\u0000st"}', 422, "invalid-input"),
        (b'{"kind": "test", "input": {"a": NaN}}', 400, "malformed-request"),
        (b'{"kind": "test", "input": {"a": "\\ud800"}}', 400, "malformed-request"),
        (b'{"kind": "test", "input": {"password": "hunter2hunter2"}}', 422, "secret-in-input"),
        (b'{"kind": "test", "not_before": "2026-01-01T00:00:00"}', 422, "invalid-input"),
    ],
)
def test_body_when_wrong(server: Server, raw: bytes, status: int, code: str) -> None:
    """What cannot be stored is refused as a problem that says where and why, and nothing is written."""
    before = server.get("/v1/runs:count").json

    answer = server.ask("POST", "/v1/runs", raw=raw)

    assert (status, code) == (answer.status, answer.json["code"])
    assert "application/problem+json" == answer.headers["content-type"]
    assert "hunter2" not in answer.content.decode()
    assert before == server.get("/v1/runs:count").json


@pytest.mark.parametrize("query", ["nope=1", "limit=x", "limit=1&limit=2", "since=yesterday", "label=x", "status=ok"])
def test_query_when_wrong(server: Server, query: str) -> None:
    """A query that is misspelt, given twice or none is refused, never ignored."""
    assert (422, "invalid-input") == (lambda it: (it.status, it.json["code"]))(server.get(f"/v1/runs?{query}"))


def test_body_when_no_json_is_announced(server: Server) -> None:
    """A form of a web page is no JSON."""
    refused = server.ask("POST", "/v1/runs", raw=b'{"kind":"x"}', Content_Type="text/plain")

    assert (415, "media-type-unknown") == (refused.status, refused.json["code"])


def test_path_when_unknown_or_with_another_method(server: Server) -> None:
    """Unknown paths and methods are problems too."""
    missing, wrong = server.get("/v2/runs"), server.ask("PUT", "/v1/runs", {})

    assert (404, "path-not-found") == (missing.status, missing.json["code"])
    assert (405, "method-not-allowed", "GET, POST") == (wrong.status, wrong.json["code"], wrong.headers["allow"])


def test_run_id_when_taken(server: Server) -> None:
    """A run id of the caller's own that is taken is refused, and nothing is told of who has it."""
    run_id = server.enqueue()

    refused = server.post("/v1/runs", {"kind": "other", "run_id": run_id})

    assert (409, "run-id-taken") == (refused.status, refused.json["code"])
    assert "winner" not in refused.json


def test_enqueues_when_many_come_at_once(server: Server) -> None:
    """Enqueues that share a commit are answered each for itself: those that are fine, and those that are not."""
    taken = server.enqueue()
    bodies = [
        {"kind": "test", "project": "crowd", "labels": {"n": str(number)}}
        if number % 4
        else {"kind": "test", "run_id": taken}
        if number % 8
        else {"kind": "test", "input": {"token": "ghp_0123456789abcdefghijABCDEFGHIJ012345"}}
        for number in range(80)
    ]

    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda body: server.post("/v1/runs", body), bodies))

    assert {201: 60, 409: 10, 422: 10} == Counter(answer.status for answer in answers)
    for body, answer in zip(bodies, answers, strict=True):
        if answer.status == 201:
            assert body["labels"] == server.get(f"/v1/runs/{answer.json['run_id']}").json["labels"]
    assert {"count": 60} == server.get("/v1/runs:count?project=crowd").json


# --- ids and rates ----------------------------------------------------------------------------------------------


def test_request_when_traced(server: Server) -> None:
    """Request id, trace and correlation go into the events and come back."""
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    run_id = server.post(
        "/v1/runs", {"kind": "test"}, traceparent=trace, X_Request_Id="req-1", X_Causation_Id="msg-9"
    ).json["run_id"]
    answer = server.get(f"/v1/runs/{run_id}/events", X_Request_Id="not an id")
    event = answer.json["events"][0]

    assert (trace, "req-1", "msg-9") == (event["traceparent"], event["correlation_id"], event["causation_id"])
    assert 16 == len(answer.headers["x-request-id"])
    assert "req-2" == server.get("/v1/runs/x", X_Request_Id="req-2").json["request_id"]


def test_rate_when_exceeded(sqlite_url: str, tmp_path: Path) -> None:
    """A token that asks too often is told when to come back; another one is not held up."""
    with serving(sqlite_url, tmp_path, "--auth", "--rate", "5") as server:
        other = new_token(sqlite_url, tmp_path, "--scope", "runs:read")
        answers = [server.get("/v1/runs:count") for _ in range(30)]
        refused = [answer for answer in answers if answer.status == 429]

        assert [200] * 10 == [answer.status for answer in answers[:10]]
        assert ("rate-exceeded", "1") == (refused[0].json["code"], refused[0].headers["retry-after"])
        assert 200 == server.get("/v1/runs:count", Authorization=f"Bearer {other}").status


def test_servers_when_two_share_a_ledger(shared_url: str, tmp_path: Path) -> None:
    """What one server writes the other one shows and streams at once; a key is one key on both."""
    with serving(shared_url, tmp_path) as one, serving(shared_url, tmp_path) as two:
        stream = two.stream("/v1/events/stream")
        next(stream.frames())
        made = one.post("/v1/runs", {"kind": "test"}, Idempotency_Key="shared")

        assert made.json["run_id"] == next(stream.events()).data["subject"]
        again = two.post("/v1/runs", {"kind": "test"}, Idempotency_Key="shared")
        assert (200, made.json["run_id"]) == (again.status, again.json["run_id"])
        stream.close()


def test_problems_when_an_error_is_added() -> None:
    """Every error that a server can meet has a status, its own or its parent's; only defects are left to be a 500."""
    import projections.systems.sentri  # noqa: F401 - has an error of its own
    from cli.http.problems import status_of

    def all_kinds(kind: type) -> Iterator[type]:
        for child in kind.__subclasses__():
            yield child
            yield from all_kinds(child)

    met = [kind for kind in all_kinds(LedgerError) if kind.__module__.partition(".")[0] in ("ledger", "projections")]
    defects = {kind.__name__ for kind in met if 500 == status_of(kind.__new__(kind))}

    assert {"InvariantBroken", "UnsafeStore"} == defects - {"KeyTaken"}
    assert ledger


def test_key_when_two_projects_use_it_at_once(tmp_path: Path) -> None:
    """A key is its project's: only a second request for the same project waits for the first's answer."""
    with ledger.open(f"sqlite:///{tmp_path / 'runs.db'}", migrate=True) as log:
        service = Service(log, tokens=None, options=Options())

        def asking(project: str) -> Call[Nothing, EnqueueBody]:
            body = EnqueueBody(kind="test", project=project)
            return Call(log, service.runs, EVERYBODY, {}, Nothing(), body, idempotency_key="k1")

        done = service.claim_key(asking("web"))
        service.claim_key(asking("api"))
        with pytest.raises(RequestInFlight):
            service.claim_key(asking("web"))
        done()

        service.claim_key(asking("web"))
        service.close()


def test_close_when_more_wait_than_there_are_threads(sqlite_url: str) -> None:
    """A server that ends finishes what its threads do, and begins nothing of what waits for one."""
    may_end, begun = threading.Event(), threading.Semaphore(0)

    def write() -> None:
        begun.release()
        may_end.wait(30)

    async def end(service: Service) -> tuple[list[object], list[object]]:
        tasks = [asyncio.create_task(service.in_thread(write, is_write=True)) for _ in range(WRITERS + 20)]
        for _ in range(WRITERS):
            await asyncio.to_thread(begun.acquire, timeout=30)
        closing = asyncio.create_task(asyncio.to_thread(service.close))
        try:
            async with asyncio.timeout(10):
                waited = await asyncio.gather(*tasks[WRITERS:], return_exceptions=True)
        finally:
            may_end.set()
        await closing
        return await asyncio.gather(*tasks[:WRITERS]), waited

    with ledger.open(sqlite_url, migrate=True) as log:
        finished, waited = asyncio.run(end(Service(log, tokens=None, options=Options())))

    assert [None] * WRITERS == finished
    assert {asyncio.CancelledError} == {type(each) for each in waited}
    assert not begun.acquire(blocking=False)
