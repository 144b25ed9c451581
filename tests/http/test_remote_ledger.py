"""`ledger.open("http://…")`: the same calls give the same answers as on a database."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Done, runfold
from http_server import Server, new_token, serving, start

import ledger
from ledger import (
    ExclusiveKeyTaken,
    IdempotencyMismatch,
    IllegalTransition,
    InvalidInput,
    LeaseLost,
    Ledger,
    NotPermitted,
    RunNotFound,
    SecretInInput,
    Status,
    StoreUnavailable,
    VersionConflict,
)
from projections import PROJECTIONS, Results, Runs, Timings, compare, lag

UNKNOWN = "0192f3a0-0000-7000-8000-0000000003e7"


@pytest.fixture
def server(shared_url: str, tmp_path: Path) -> Iterator[Server]:
    with serving(shared_url, tmp_path) as running:
        yield running


def open_remote(server: Server, **options: object) -> Ledger:
    host, port = server.address
    return ledger.open(f"http://{host}:{port}", token=server.token, **options)  # type: ignore[arg-type]


@pytest.fixture
def remote(server: Server) -> Iterator[Ledger]:
    with open_remote(server, actor="ada") as opened:
        yield opened


@pytest.fixture
def local(server: Server) -> Iterator[Ledger]:
    with ledger.open(server.ledger_url) as opened:
        yield opened


def test_life_of_a_run(remote: Ledger, local: Ledger) -> None:
    """Every command of a run's life writes what it writes on the database, and the state is the same."""
    run = remote.enqueue("build", project="web", shard_count=2, input={"branch": "main"}, labels={"a": "b"}).id
    assert remote.start(run, worker="w1")
    assert remote.enter_phase(run, "test")
    assert remote.resolve_version(run, "1.2")
    assert remote.finish_gate(run, "lint", "passed", summary="clean")
    assert 2 == remote.append_results(run, [{"status": "passed"}, {"status": "failed"}], shard=0)
    assert 1 == remote.increment_stats(run, total=3)
    assert 2 == remote.append_log(run, ["one", "two"], source="stderr")
    assert "artifact_recorded" == remote.record_artifact(run, "report", "s3://r").type
    assert None is remote.record_document(run, "plan", None).data.document
    assert {"seen": "yes"} == remote.annotate(run, note="fine", labels={"seen": "yes"}).data.labels
    first, twice = remote.complete_shard(run, 0, exit_code=1), remote.complete_shard(run, 0)
    assert (True, 1, False, 1) == (first.advanced, first.new_value, twice.advanced, twice.new_value)
    assert 2 == remote.retry_shard(run, 0)
    assert remote.request_abort(run, reason="slow")
    assert remote.start_finalization(run, worker="w1")
    won, late = remote.complete(run, output_ref="s3://out"), remote.fail(run, error="late")

    assert won
    assert won.winner is not None
    assert (False, won.winner.event_id) == (late.won, late.winner.event_id if late.winner else None)
    assert local.state(run) == remote.state(run)
    assert Runs(local).get(run) == Runs(remote).get(run)
    assert list(local.read(run)) == list(remote.read(run))
    assert {"ada"} == {str(event.actor).partition(" via ")[0] for event in remote.read(run)}
    assert remote.delete(run)
    assert remote.restore(run)


def test_errors(remote: Ledger) -> None:
    """Errors are the same classes, with their values."""
    first = remote.enqueue("test", idempotency_key='k "1"', exclusive_key="x")

    assert (first.id, False) == (
        (again := remote.enqueue("test", idempotency_key='k "1"', exclusive_key="x")).id,
        again.is_new,
    )
    with pytest.raises(IdempotencyMismatch):
        remote.enqueue("other", idempotency_key='k "1"')
    with pytest.raises(ExclusiveKeyTaken) as taken:
        remote.enqueue("test", exclusive_key="x")
    assert first.id == taken.value.active_run_id
    with pytest.raises(IllegalTransition):
        remote.complete(first.id)
    with pytest.raises(RunNotFound):
        remote.complete(UNKNOWN)
    with pytest.raises(RunNotFound):
        remote.state(UNKNOWN)
    with pytest.raises(SecretInInput) as secret:
        remote.enqueue("test", input={"key": "ghp_" + "a1B2" * 9})
    assert "input.key" == secret.value.field
    with pytest.raises(InvalidInput):
        remote.enqueue("")
    with pytest.raises(InvalidInput):
        remote.state("no id")
    with pytest.raises(StoreUnavailable, match="keeps the rules itself"):
        remote.append(first.id, [])


def test_context(remote: Ledger, local: Ledger) -> None:
    """Who acts, and what led to it, goes into the events as it is, in whatever script."""
    bound = remote.bind(actor="Zoë 100%", correlation_id="build-17", causation_id="hook-3")
    run = bound.enqueue("test").id

    (event,) = local.read(run)

    actor = event.actor
    assert actor is not None
    assert "Zoë 100%" == actor.partition(" via ")[0]
    assert ("build-17", "hook-3") == (event.correlation_id, event.causation_id)


def test_expected_version(remote: Ledger, local: Ledger) -> None:
    """A command that expects a version is refused when the run has moved on; what commutes asks for none."""
    run = remote.enqueue("test").id
    seen = remote.expecting(1)
    remote.start(run, worker="w1")

    with pytest.raises(VersionConflict) as conflict:
        seen.abort(run)
    assert 1 == seen.append_log(run, ["fine"])
    assert (1, 2) == (conflict.value.expected_version, conflict.value.version)
    assert Status.RUNNING == local.state(run).status
    assert remote.expecting(3).abort(run)


def test_retry_and_many(remote: Ledger, local: Ledger) -> None:
    """A finished run is asked for again, and many are asked for at once, each for itself."""
    run = remote.enqueue("test", project="web", shard_count=2, plan=[["a"], ["b"]]).id
    remote.abort(run)

    made, again = (remote.retry(run, idempotency_key="r1") for _ in range(2))
    part = remote.retry(run, shard=1)
    many = remote.enqueue_all([{"kind": "test"}, {"kind": ""}, {"kind": "test", "project": "web"}])

    assert (made.id, True, False) == (again.id, made.is_new, again.is_new)
    assert run == local.state(made.id).retry_of == local.state(part.id).retry_of
    assert [True, False, True] == [isinstance(each, ledger.RunHandle) for each in many]
    assert isinstance(many[1], InvalidInput)
    with pytest.raises(IllegalTransition):
        remote.retry(made.id)


def test_lists(remote: Ledger, local: Ledger) -> None:
    """Lists, counts, filters and pages are those of the database."""
    for number in range(130):
        remote.enqueue("a" if number % 3 else "b", project="web", labels={"n": str(number % 2)})
    remote.start(remote.enqueue("c").id, worker="w")
    asks = [{}, {"kind": "b"}, {"status": ["queued"]}, {"labels": {"n": "1"}}, {"project": "web", "kind": "a"}]

    for ask in asks:
        assert Runs(local).list(limit=1_000, **ask).runs == Runs(remote).list(limit=1_000, **ask).runs
        assert Runs(local).count(**ask) == Runs(remote).count(**ask)
    page = Runs(remote).list(limit=120)
    assert (120, 11) == (len(page.runs), len(Runs(remote).list(limit=120, page_token=page.next_page_token).runs))
    here, there = Runs(local), Runs(remote)
    for ask in ({}, {"status": ["aborted"]}, {"status": "queued", "kind": "a"}):
        assert here.count_by_status(**ask) == there.count_by_status(**ask)
    assert here.count_by_kind() == there.count_by_kind()
    assert here.count_by_project(["web", "none", "web"]) == there.count_by_project(["web", "none", "web"])
    for wrong in ("abc", 5, [""], ["x"] * 1_001):
        with pytest.raises(InvalidInput):
            there.count_by_project(wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        Runs(remote).list(status="nonsense")


def test_find_when_there_are_many_runs(remote: Ledger, local: Ledger) -> None:
    """A run is found by how its id begins, however many came after it."""
    first = local.enqueue("test", project="web").id
    local.enqueue_all([{"kind": "test", "project": "api"}] * 1_000)
    here, there = Runs(local), Runs(remote)

    assert [first] == list(there.find(first[:-2]))
    assert here.find(first[:4]) == there.find(first[:4])
    assert [first] == list(here.find(first[:4], project="web")) == list(there.find(first[:4], project="web"))
    for wrong in ({"prefix": "g"}, {"prefix": "0", "limit": 11}):
        with pytest.raises(InvalidInput):
            there.find(**wrong)


def test_results_and_timings(remote: Ledger, local: Ledger) -> None:
    """Rankings, histories, comparisons, timings and lags are those of the database."""
    runs = []
    for outcome in ("passed", "failed", "passed"):
        run = remote.enqueue("test", project="web", shard_count=2, worker="w1").id
        rows = [{"testId": f"TC-{n}", "status": outcome if n % 2 else "passed", "durationMs": n} for n in range(150)]
        remote.append_results(run, rows, shard=0)
        remote.complete_shard(run, 0)
        runs.append(run)

    for read in (
        lambda log: Results(log).tests(project="web"),
        lambda log: Results(log).tests(project="web", order="slowest", limit=3, runs=2),
        lambda log: Results(log).tests(project=None),
        lambda log: Results(log).history("TC-1", project="web"),
        lambda log: Results(log).latest("TC-2"),
        lambda log: list(Results(log).all_of_run(runs[0])),
        lambda log: Timings(log).of_run(runs[1]),
        lambda log: compare(log, runs[0], runs[1]),
        lambda log: [lag(log, name) for name in PROJECTIONS],
    ):
        assert read(local) == read(remote)
    page = Results(remote).of_run(runs[0], limit=100)
    rest = Results(remote).of_run(runs[0], limit=100, page_token=page.next_page_token)
    assert (100, 50, None) == (len(page.results), len(rest.results), rest.next_page_token)
    assert 75 == len(compare(remote, runs[0], runs[1]).flipped)
    for ask in (Timings(remote).of_run, Results(remote).of_run):
        with pytest.raises(RunNotFound):
            ask(UNKNOWN)
    with pytest.raises(RunNotFound):
        compare(remote, runs[0], UNKNOWN)


def test_log_and_subscription(remote: Ledger, local: Ledger) -> None:
    """The log is read in order, and followed live, by position."""
    runs = [local.enqueue("test").id for _ in range(30)]
    assert list(local.read_all()) == list(remote.read_all())

    seen: list[str] = []
    with remote.subscribe(after=0, types=["enqueued", "aborted"]) as subscription:
        for _ in range(30):
            seen.append(next(subscription).run_id)
        local.start(runs[0], worker="w")
        local.abort(runs[1], reason="no")
        last = next(subscription)

    assert runs == seen
    assert ("aborted", runs[1], "no") == (last.type, last.run_id, last.data.reason)
    assert last.position == subscription.position


def test_work(remote: Ledger) -> None:
    """Work is claimed, kept and reported over HTTP, and a lost lease is refused."""
    run = remote.enqueue("test", attempts_max=2, input={"n": 1}).id
    [lease] = remote.claim("w1", lease_s=60)
    assert (run, {"n": 1}, 1) == (lease.run_id, lease.input, lease.attempt)
    assert [True] == [answer.is_held for answer in remote.heartbeat([lease])]
    assert ["held"] == [task.state for task in remote.tasks(run_id=run)]

    remote.fail_attempt(run, error="somebody decided so")
    with pytest.raises(LeaseLost):
        remote.under(lease).append_results(run, [{"status": "passed"}])
    assert ["write_rejected"] == [event.type for event in remote.read(run)][-1:]
    [again] = remote.claim("w2")
    remote.under(again).append_results(run, [{"status": "passed"}])

    assert remote.succeed(again)
    assert (Status.COMPLETED, 1, 2) == (
        remote.state(run).status,
        remote.state(run).passed,
        remote.state(run).attempt,
    )


def test_stuck(remote: Ledger, local: Ledger) -> None:
    """What makes no progress is told as on the database, with what only a run's own events say."""
    silent = remote.enqueue("test", worker="by name").id
    waiting = remote.enqueue("test").id
    asked_to_stop = remote.enqueue("stop").id
    remote.claim("deaf", kinds=["stop"])
    remote.request_abort(asked_to_stop)

    found = {one.run_id: one.why.value for one in remote.stuck(older_than_s=0)}

    assert {silent: "silent", waiting: "unclaimed", asked_to_stop: "abort_requested"} == found
    assert found == {one.run_id: one.why.value for one in local.stuck(older_than_s=0)}


def test_server_when_restarted(shared_url: str, tmp_path: Path) -> None:
    """Writers and a subscriber go on through a server that is killed and started again: each event once."""
    token = new_token(shared_url, tmp_path, "--scope", "admin")
    first = start(shared_url, tmp_path, "--auth")
    host, port = first.address
    with (
        ledger.open(f"http://{host}:{port}", token=token) as writer,
        ledger.open(f"http://{host}:{port}", token=token) as reader,
    ):
        run = writer.enqueue("test").id
        seen: list[str] = []
        subscription = reader.subscribe(run_id=run)
        thread = threading.Thread(target=lambda: seen.extend(event.event_id for event in subscription), daemon=True)
        thread.start()
        for number in range(40):
            if number == 20:
                first.kill()
                second = start(shared_url, tmp_path, "--auth", port=port)
            assert 1 == writer.append_results(run, [{"status": "passed", "testId": str(number)}])
        deadline = time.monotonic() + 20
        while len(seen) < 41 and time.monotonic() < deadline:
            time.sleep(0.05)
        subscription.close()
        with ledger.open(shared_url) as log:
            assert 40 == log.state(run).passed
            assert [event.event_id for event in log.read(run)] == seen
    second.kill()


def test_command_line(server: Server, tmp_path: Path, local: Ledger) -> None:
    """The same commands work with a server's URL."""
    host, port = server.address
    env = {"RUNFOLD_URL": f"http://{host}:{port}", **({"RUNFOLD_TOKEN": server.token} if server.token else {})}

    made = runfold("enqueue", "deploy", "--project", "web", folder=tmp_path, env=env)
    run = made.rows[0][0]
    local.start(run, worker="w")
    local.append_log(run, ["hello"])
    listed = runfold("list", folder=tmp_path, env=env)
    shown = runfold("show", run, "--json", folder=tmp_path, env=env)
    said = runfold("logs", run, folder=tmp_path, env=env)
    history = runfold("history", run, folder=tmp_path, env=env)
    aborted = runfold("abort", run, folder=tmp_path, env=env)
    watched = runfold("watch", run, "--exit-status", folder=tmp_path, env=env)
    database = runfold("projection", "verify", folder=tmp_path, env=env)

    assert [0, 0, 0, 0, 0, 0] == [done.code for done in (made, listed, shown, said, history, aborted)], made.err
    assert run in listed.out
    assert '"deploy"' in shown.out
    assert "hello" in said.out
    assert ["enqueued", "started", "log_appended"] == [row[3] for row in history.rows]
    assert (1, Status.ABORTED) == (watched.code, local.state(run).status)
    assert 7 == database.code
    assert "needs its database" in database.err


def test_command_line_when_it_reads_and_purges(server: Server, tmp_path: Path, local: Ledger) -> None:
    """What reads results, timings and lags works behind a server; so do the bin, a retry, and a purge."""
    env = {"RUNFOLD_URL": server.url, "RUNFOLD_TOKEN": server.token or ""}
    runs = []
    for status in ("passed", "failed"):
        run = local.enqueue("test", project="web", worker="w1").id
        local.append_results(run, [{"testId": "TC-1", "status": status}])
        local.complete(run)
        runs.append(run)

    def run_all(*commands: tuple[str, ...]) -> list[Done]:
        return [runfold(*command, folder=tmp_path, env=env) for command in commands]

    done = run_all(
        ("tests", "--project", "web"),
        ("tests", "TC-1", "--project", "web"),
        ("compare", *runs),
        ("timings", runs[0]),
        ("projection", "list"),
        ("logs", "-f", runs[0]),
        ("history", "--follow", runs[0]),
        ("retry", runs[0]),
        ("delete", runs[0]),
        ("restore", runs[0]),
        ("delete", runs[0]),
        ("purge", runs[0], "--yes"),
        ("purge", "--older-than", "0s", "--deleted", "--yes"),
    )

    assert [0] * 13 == [each.code for each in done], [each.err for each in done]
    tests, history, compared, timed = done[:4]
    assert "TC-1" == tests.rows[0][0]
    assert [runs[1], runs[0]] == [row[0] for row in history.rows]
    assert ["flipped", "TC-1"] == compared.rows[0]
    assert "attempt" == timed.rows[0][0]
    assert local.state(runs[0]).purged_at is not None


def test_token(shared_url: str, tmp_path: Path) -> None:
    """A token of too small a scope is refused, and told."""
    token = new_token(shared_url, tmp_path, "--scope", "runs:read", name="reader")
    with serving(shared_url, tmp_path, "--auth") as server:
        host, port = server.address
        with ledger.open(f"http://{host}:{port}", token=token) as log, pytest.raises(NotPermitted, match="scope"):
            log.enqueue("test")
        env = {"RUNFOLD_URL": f"http://{host}:{port}", "RUNFOLD_TOKEN": token}
        assert 4 == runfold("enqueue", "test", folder=tmp_path, env=env).code
        assert 0 == runfold("list", folder=tmp_path, env=env).code
