"""Every operation of the API does what it says, end to end on both databases."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from http_server import Server, serving

import ledger
from cli.http.routes import OPERATIONS


@pytest.fixture
def server(shared_url: str, tmp_path: Path) -> Iterator[Server]:
    with serving(shared_url, tmp_path) as running:
        yield running


def test_run_when_lived_from_end_to_end(server: Server) -> None:
    """A run is enqueued, started, filled, finished and read, each by its operation."""
    made = server.post("/v1/runs", {"kind": "build", "project": "web", "shard_count": 1, "input": {"branch": "main"}})
    run = f"/v1/runs/{made.json['run_id']}"
    answers = [
        server.post(f"{run}:start", {"worker": "w1"}),
        server.post(f"{run}:enter-phase", {"phase": "test"}),
        server.post(f"{run}:resolve-version", {"resolved_version": "1.2"}),
        server.post(f"{run}:finish-gate", {"gate": "lint", "outcome": "passed", "summary": "clean"}),
        server.post(f"{run}/results", {"results": [{"status": "passed"}, {"status": "failed"}], "shard": 0}),
        server.post(f"{run}/logs", {"lines": ["one", "two"], "source": "stderr"}),
        server.post(f"{run}/artifacts", {"name": "report", "uri": "s3://reports/1"}),
        server.post(f"{run}/documents", {"name": "plan", "document": {"steps": [1]}}),
        server.post(f"{run}/notes", {"note": "looks fine", "labels": {"seen": "yes"}}),
        server.post(f"{run}/shards/0:complete", {"exit_code": 1}),
        server.post(f"{run}:start-finalization", {"worker": "w1"}),
        server.post(f"{run}:complete", {"output_ref": "s3://out"}),
    ]

    shown = server.get(run).json
    assert [200] * len(answers) == [answer.status for answer in answers]
    assert (201, f"/v1/runs/{shown['run_id']}") == (made.status, made.headers["location"])
    assert ("completed", "failed", "test", "1.2", 1, 1, 2, 1, {"branch": "main"}, {"seen": "yes"}) == (
        shown["status"],
        shown["verdict"],
        shown["phase"],
        shown["resolved_version"],
        shown["passed"],
        shown["failed"],
        shown["log_line_count"],
        shown["artifact_count"],
        shown["input"],
        shown["labels"],
    )
    assert ["lint"] == [gate["gate"] for gate in shown["gates"]]
    assert [["passed", "failed"]] == [
        [result["status"] for result in batch["results"]] for batch in server.get(f"{run}/results").json["batches"]
    ]
    assert [("stderr", "one"), ("stderr", "two")] == [
        (line["source"], line["line"]) for line in server.get(f"{run}/logs").json["lines"]
    ]
    history = server.get(f"{run}/events").json["events"]
    assert list(range(1, shown["version"] + 1)) == [event["version"] for event in history]
    assert ["enqueued", "started", "phase_entered"] == [event["type"] for event in history[:3]]


def test_run_when_finished_and_put_away(server: Server) -> None:
    """A finished run is repeated, deleted, restored and purged; an active one is none of these."""
    run_id = server.enqueue(project="web", input={"n": 1}, labels={"a": "b"})
    run = f"/v1/runs/{run_id}"

    early = [server.post(f"{run}:{verb}") for verb in ("delete", "retry")]
    aborted = server.post(f"{run}:abort", {"reason": "not needed"})
    repeated = server.post(f"{run}:retry", Idempotency_Key="again")
    replayed = server.post(f"{run}:retry", Idempotency_Key="again")
    deleted = server.post(f"{run}:delete", {"reason": "old"})
    restored = server.post(f"{run}:restore")
    server.post(f"{run}:delete")
    purged = server.post(f"{run}:purge", {"reason": "asked for"})
    late = server.post(f"{run}:retry")

    assert [409, 409] == [answer.status for answer in early]
    assert ("aborted", 201, 200) == (aborted.json["event"]["type"], repeated.status, replayed.status)
    assert "true" == replayed.headers["idempotency-replayed"]
    copy = server.get(f"/v1/runs/{repeated.json['run_id']}").json
    assert (run_id, {"n": 1}, {"a": "b"}) == (copy["retry_of"], copy["input"], copy["labels"])
    assert ("deleted", "restored", "purged") == tuple(
        answer.json["event"]["type"] for answer in (deleted, restored, purged)
    )
    assert (409, "run-purged") == (late.status, late.json["code"])
    assert (None, "aborted") == (server.get(run).json["input"], server.get(run).json["status"])


def test_run_when_interrupted_and_tried_again(server: Server) -> None:
    """The less usual moves of a run have their operations too."""
    run = f"/v1/runs/{server.enqueue(not_before='2999-01-01T00:00:00Z', shard_count=2, attempts_max=3)}"
    moves: list[tuple[str, Any, str]] = [
        ("release", None, "queued"),
        ("start", {"worker": "w1"}, "running"),
        ("interrupt", {"reason": "host gone"}, "interrupted"),
        ("resume", {"worker": "w2"}, "running"),
        ("fail-attempt", {"error": "boom"}, "queued"),
        ("start", {"worker": "w2"}, "running"),
        ("request-abort", {"reason": "enough"}, "running"),
        ("fail", {"error": "boom", "category": "infra"}, "failed"),
    ]

    statuses = []
    for verb, body, _ in moves:
        assert 200 == server.post(f"{run}:{verb}", body).status, verb
        statuses.append(server.get(run).json["status"])
        if verb == "resume":
            assert 2 == server.post(f"{run}/shards/1:retry", {"reason": "flaky"}).json["attempt"]
            assert {"advanced": True, "new_value": 1} == server.post(f"{run}/shards:count").json
            assert {"moved": 1} == server.post(f"{run}/stats", {"passed": 3}).json

    assert [status for _, _, status in moves] == statuses


def test_work_when_leased(server: Server) -> None:
    """Outside workers claim, keep, hand back, fail and finish work; a lease that is over refuses."""
    for number in range(3):
        server.enqueue(input={"n": number}, attempts_max=2)
    leases = server.post("/v1/runs:claim", {"worker": "w1", "limit": 3, "lease_s": 60}).json["leases"]
    first, second, third = leases
    at = [f"/v1/runs/{lease['run_id']}" for lease in leases]

    beats = server.post("/v1/runs:heartbeat", {"leases": [lease["lease"] for lease in leases]}).json["heartbeats"]
    written = server.post(f"{at[0]}/results", {"results": [{"status": "passed"}]}, Runfold_Lease=first["lease"])
    done = server.post(f"{at[0]}:succeed", {}, Runfold_Lease=first["lease"])
    failed = server.post(f"{at[1]}:give-up", {"error": "boom"}, Runfold_Lease=second["lease"])
    back = server.post(f"{at[2]}:hand-back", {"reason": "shutting down"}, Runfold_Lease=third["lease"])
    late = server.post(f"{at[1]}:succeed", {}, Runfold_Lease=second["lease"])
    without = server.post(f"{at[1]}:succeed", {})
    elsewhere = server.post(f"{at[2]}:complete", {}, Runfold_Lease=second["lease"])

    assert [True] * 3 == [beat["is_held"] for beat in beats]
    assert [{"n": 0}, {"n": 1}, {"n": 2}] == [lease["input"] for lease in leases]
    assert [200] * 4 == [answer.status for answer in (written, done, failed, back)]
    assert "completed" == server.get(at[0]).json["status"]
    assert {"queued"} == {server.get(at[number]).json["status"] for number in (1, 2)}
    assert (409, "lease-lost") == (late.status, late.json["code"])
    assert [422, 422] == [without.status, elsewhere.status]
    waiting = server.get("/v1/tasks").json["tasks"]
    assert {lease["run_id"] for lease in (second, third)} == {task["run_id"] for task in waiting}
    assert {"swept": []} == server.post("/v1/runs:sweep", {}).json


def test_lists_when_paged(server: Server) -> None:
    """Pages of runs, events and history hold everything once, in order."""
    made = [server.enqueue(project="web", labels={"n": str(number % 2)}) for number in range(7)]
    server.enqueue(project="other")

    seen, token = [], ""
    while token is not None:
        page = server.get(f"/v1/runs?project=web&limit=3{token and '&page_token=' + token}").json
        seen += [run["run_id"] for run in page["runs"]]
        token = page["next_page_token"]
    positions, after, more = [], 0, True
    while more:
        log = server.get(f"/v1/events?limit=3&after={after}&type=enqueued&project=web&label=n%3D0").json
        positions += [event["position"] for event in log["events"]]
        after, more = log["next_after"], log["more"]

    assert list(reversed(made)) == seen
    assert {"count": 4} == server.get("/v1/runs:count?label=n%3D0&status=queued&status=running").json
    assert (4, sorted(set(positions))) == (len(positions), positions)
    assert [422, 422] == [server.get(f"/v1/runs?limit={limit}").status for limit in (0, 101)]
    assert 422 == server.get("/v1/runs?page_token=nonsense").status


def test_run_when_shown_as_it_was(server: Server) -> None:
    """A run is shown at a version or a moment."""
    run = f"/v1/runs/{server.enqueue()}"
    server.post(f"{run}:abort")
    first = server.get(f"{run}/events").json["events"][0]["recorded_at"]

    assert "queued" == server.get(f"{run}?at_version=1").json["status"]
    assert "queued" == server.get(f"{run}?at={first}").json["status"]
    assert 422 == server.get(f"{run}?at={first}&at_version=1").status
    assert 404 == server.get(f"{run}?at=2001-01-01T00:00:00Z").status


def test_upkeep_when_asked_for(server: Server) -> None:
    """Health, readiness, lag, figures and the description are there."""
    server.enqueue()

    assert [{"status": "ok"}] * 2 == [server.get(path).json for path in ("/healthz", "/readyz")]
    assert ["runs"] == [
        row["name"] for row in server.get("/v1/projections").json["projections"] if row["name"] == "runs"
    ]
    figures = server.get("/metrics").content.decode()
    assert 'runfold_http_requests_total{operation="enqueue",status="201"} 1' in figures
    assert 'runfold_tasks{kind="test",state="waiting"} 1' in figures
    described = server.get("/openapi.json").json
    assert {operation.name for operation in OPERATIONS} == {
        operation["operationId"] for path in described["paths"].values() for operation in path.values()
    }


def test_path_when_there_is_nothing(shared_url: str, tmp_path: Path) -> None:
    """What is asked for in vain is counted and logged like every other answer."""
    with serving(shared_url, tmp_path, "--log-requests") as server:
        assert 404 == server.get("/wp-login.php").status

        assert 'operation="none",status="404"} 1' in server.get("/metrics").content.decode()
        assert "GET /wp-login.php 404" in server.log.read_text()


def test_log_when_a_path_forges_a_line(sqlite_url: str, tmp_path: Path) -> None:
    """What a path says stays within its line, and cannot steer the terminal that shows it."""
    with serving(sqlite_url, tmp_path, "--log-requests") as server:
        assert 404 == server.get("/a%0AINFO%20GET%20/forged%1b[31m%0d%1bred%c2%9b%e2%80%a8").status

        [line] = [line for line in server.log.read_text().splitlines() if "forged" in line]

    assert r"GET /aINFO GET /forged\x1bred\x9b 404" in line
    assert "\x1b" not in line


def test_server_when_told_to_stop(server: Server) -> None:
    """SIGTERM ends the server at once although a stream is open, and nothing is lost."""
    run_id = server.enqueue()
    stream = server.stream("/v1/events/stream")

    assert 0 == server.stop()

    assert [] == list(stream.events())
    stream.close()
    with ledger.open(server.ledger_url) as log:
        assert "queued" == log.state(run_id).status
