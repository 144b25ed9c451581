"""What Sprongus's run table was planned to do, on every store."""

from datetime import UTC, datetime, timedelta

import pytest

from ledger import IdempotencyMismatch, IllegalTransition, InvalidInput, Ledger, SecretInInput
from projections.systems.sprongus import SprongusRuns


@pytest.fixture
def runs(log: Ledger) -> SprongusRuns:
    return SprongusRuns(log)


def test_enqueue_and_get(runs: SprongusRuns) -> None:
    """A run is queued with its input; an unknown one is none."""
    run = runs.enqueue("script.pull", project_id="film", input={"script": "s1"}, max_attempts=3)

    assert run == runs.get(run["id"])
    assert ("queued", "film", {"script": "s1"}, 0, 3, None) == tuple(
        run[name] for name in ("state", "projectId", "input", "attempt", "maxAttempts", "claimedBy")
    )
    assert runs.get("unknown") is None


def test_enqueue_with_the_same_key(runs: SprongusRuns) -> None:
    """The same key gives the same run; with other facts it is an error."""
    first = runs.enqueue("script.pull", input={"a": 1}, idempotency_key="k1")

    assert first["id"] == runs.enqueue("script.pull", input={"a": 1}, idempotency_key="k1")["id"]
    with pytest.raises(IdempotencyMismatch):
        runs.enqueue("script.pull", input={"a": 2}, idempotency_key="k1")


def test_ensure_idempotent(runs: SprongusRuns) -> None:
    """The factory is asked once a key."""
    asked = []

    def factory() -> dict[str, object]:
        asked.append(1)
        return {"kind": "script.pull", "input": {"n": len(asked)}}

    first, second = runs.ensure_idempotent("k1", factory), runs.ensure_idempotent("k1", factory)

    assert first["id"] == second["id"]
    assert [1] == asked
    assert first["id"] != runs.ensure_idempotent("k1", factory, project_id="film")["id"]


def test_claim_and_succeed(runs: SprongusRuns) -> None:
    """A claimed run is one worker's, and succeeds with its output."""
    runs.enqueue("sync.storyboard")
    wanted = runs.enqueue("script.pull")

    [claimed] = runs.claim_next("w1", kinds=["script.pull"], limit=5)
    assert (wanted["id"], "running", "w1", 1) == tuple(
        claimed[name] for name in ("id", "state", "claimedBy", "attempt")
    )
    assert [] == runs.claim_next("w2", kinds=["script.pull"])
    assert runs.heartbeat(wanted["id"], "w1")
    assert not runs.heartbeat(wanted["id"], "w2")

    assert runs.succeed(wanted["id"], worker_id="w1", output_ref="s3://out")
    shown = runs.get(wanted["id"])
    assert shown is not None
    assert ("succeeded", "s3://out") == (shown["state"], shown["outputRef"])


def test_fail_with_attempts_left(runs: SprongusRuns) -> None:
    """A retryable failure goes back to the queue until the attempts are used up."""
    run = runs.enqueue("script.pull", max_attempts=2)
    runs.claim_next("w1")
    runs.fail(run["id"], error="timeout", worker_id="w1", retryable=True)
    again = runs.get(run["id"])
    runs.claim_next("w1")
    runs.fail(run["id"], error="timeout", worker_id="w1", retryable=True)
    failed = runs.get(run["id"])

    assert again is not None
    assert failed is not None
    assert ("queued", 1, "failed", 2) == (again["state"], again["attempt"], failed["state"], failed["attempt"])


def test_fail_when_not_retryable(runs: SprongusRuns) -> None:
    """A failure that is not retryable is final, and its error is cut to the cap."""
    run = runs.enqueue("script.pull", max_attempts=3)
    runs.claim_next("w1")
    runs.fail(run["id"], error="e" * 50_000)

    shown = runs.get(run["id"])
    assert shown is not None
    assert "failed" == shown["state"]
    assert len(shown["error"]) <= 8_192


def test_cancel(runs: SprongusRuns) -> None:
    """Queued and running runs can be canceled; a finished one stays, and the outcome says who was first."""
    queued, running = runs.enqueue("a"), runs.enqueue("b")
    runs.claim_next("w1", kinds=["b"])

    assert runs.cancel(queued["id"])
    assert runs.cancel(running["id"])
    late = runs.cancel(queued["id"])

    assert not late
    assert late.winner is not None
    assert "aborted" == late.winner.type
    assert not runs.succeed(queued["id"], worker_id="w1")
    assert not runs.succeed(running["id"], worker_id="w1")


def test_report_by_somebody_else(runs: SprongusRuns) -> None:
    """A worker that does not hold the run cannot report on it."""
    run = runs.enqueue("a")
    runs.claim_next("w1")

    with pytest.raises(IllegalTransition):
        runs.succeed(run["id"], worker_id="w2")


def test_list_filters(runs: SprongusRuns) -> None:
    """Runs are filtered by project, state, kind and time; a page has 100 at most."""
    for number in range(105):
        runs.enqueue("a" if number % 2 else "b", project_id="film")
    runs.enqueue("a", project_id="other")
    runs.claim_next("w1", kinds=["b"], limit=3)

    first = runs.list(project_id="film", limit=500)
    second = runs.list(project_id="film", limit=500, page_token=first.next_page_token)
    now = datetime.now(UTC)

    assert (100, 5, None) == (len(first.runs), len(second.runs), second.next_page_token)
    assert 52 == len(runs.list(project_id="film", kind="a", limit=100).runs)
    assert 3 == len(runs.list(state="running").runs)
    assert 0 == len(runs.list(since=now + timedelta(minutes=1)).runs)
    assert 100 == len(runs.list(before=now + timedelta(minutes=1), limit=100).runs)
    assert "input" not in first.runs[0]
    with pytest.raises(InvalidInput):
        runs.list(state="completed")


def test_secrets_are_refused(runs: SprongusRuns) -> None:
    """A credential in the input is refused with its path and kind, and is not in the error."""
    secret = "ghp_" + "a1B2" * 9

    with pytest.raises(SecretInInput) as refusal:
        runs.enqueue("a", input={"steps": [{"auth": secret}]})

    assert "input.steps[0].auth" == refusal.value.field
    assert secret not in str(refusal.value)
    assert [] == runs.list().runs


def test_redaction(log: Ledger) -> None:
    """What the hook takes out is not stored, in input and errors."""

    def redact(value: dict[str, object]) -> dict[str, object]:
        return {
            name: "•" if name == "email" else str(item).replace("ann@example.org", "•") for name, item in value.items()
        }

    runs = SprongusRuns(log, redact=redact)
    run = runs.enqueue("a", input={"email": "ann@example.org", "script": "s1"})
    runs.claim_next("w1")
    runs.fail(run["id"], error="no mailbox ann@example.org")

    shown = runs.get(run["id"])
    assert shown is not None
    assert ({"email": "•", "script": "s1"}, "no mailbox •") == (shown["input"], shown["error"])
    assert "ann@" not in repr([event.data for event in log.read(run["id"])])


def test_domain_events(runs: SprongusRuns) -> None:
    """Every transition is a domain event under Sprongus's name, read on from the last position."""
    run = runs.enqueue("a")
    runs.claim_next("w1")
    runs.succeed(run["id"])
    canceled = runs.enqueue("a")
    runs.cancel(canceled["id"])

    events = list(runs.events())

    assert ["run.enqueued", "run.started", "run.succeeded", "run.enqueued", "run.canceled"] == [
        event.type for event in events
    ]
    assert ["run.enqueued", "run.canceled"] == [event.type for event in runs.events(after=events[2].position)]
