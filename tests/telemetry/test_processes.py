"""What real processes give to see: figures on a port, spans sent to a collector; and nothing imported without need."""

import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import RUNFOLD, environment, runfold
from http_server import serving
from otlp_collector import Collector, collecting
from prometheus_client.parser import text_string_to_metric_families

import ledger
from cli.outbox.outbox import Outbox
from cli.telemetry.ledger_figures import ledger_families
from ledger import Ledger
from ledger.run.events import LogAppended

Samples = dict[tuple[str, tuple[str, ...]], float]


@contextmanager
def a_process(folder: Path, *args: str, **env: str) -> Iterator["subprocess.Popen[bytes]"]:
    with (folder / "log").open("wb") as errors:
        process = subprocess.Popen(
            [RUNFOLD, *args],
            cwd=folder,
            env=environment(folder, **env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


def figures_url(folder: Path, timeout_s: float = 20) -> str:
    """Give where a process says its figures are."""
    give_up_at = time.monotonic() + timeout_s
    while True:
        said = (folder / "log").read_text()
        found = re.search(r"figures are at (http://\S+)", said)
        if found is not None:
            return found[1]
        assert time.monotonic() < give_up_at, said
        time.sleep(0.02)


def read(url: str) -> Samples:
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        return samples(answer.read().decode())


def samples(text: str) -> Samples:
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def until(url: str, is_done: Callable[[Samples], object], timeout_s: float = 30) -> Samples:
    give_up_at = time.monotonic() + timeout_s
    while True:
        found = read(url)
        if is_done(found):
            return found
        assert time.monotonic() < give_up_at, found
        time.sleep(0.05)


def work_count(found: Samples, *labels: str) -> float:
    return found.get(("runfold_work_seconds_count", labels), 0)


def test_worker_figures_when_it_works(shared_url: str, tmp_path: Path) -> None:
    """A worker tells how much it took, how long that waited and ran, and what became of it."""
    with ledger.open(shared_url, migrate=True) as log:
        for _ in range(3):
            log.enqueue("good")
        log.enqueue("bad")
    command = ("worker", "--url", shared_url, "--kind", "good", "--kind", "bad", "-n", "2", "--metrics-port", "0")
    script = 'case "$(cat "$RUNFOLD_INPUT")" in *) test -n "$RUNFOLD_RUN_ID";; esac; exit ${FAILS:-0}'
    with a_process(tmp_path, *command, "--", "sh", "-c", script):
        found = until(figures_url(tmp_path), lambda found: work_count(found, "good", "succeeded", "run") == 3)
        found = until(figures_url(tmp_path), lambda found: work_count(found, "bad", "succeeded", "run") == 1)

    assert 3 == found["runfold_work_claimed_total", ("good", "run")]
    assert 3 == found["runfold_work_wait_seconds_count", ("good", "run")]
    assert 3 == found["runfold_work_seconds_bucket", ("good", "+Inf", "succeeded", "run")]
    assert 0 < found["runfold_work_wait_seconds_sum", ("good", "run")] < 60
    assert 0 == found["runfold_leases_swept_total", ()]


def test_daemon_figures_when_things_wait(shared_url: str, tmp_path: Path) -> None:
    """A daemon tells the ledger's figures: queue, oldest, runs by outcome, callbacks that wait; and leases lost."""
    with ledger.open(shared_url, migrate=True) as log:
        _some_runs(log)
        with a_process(tmp_path, "daemon", "--url", shared_url, "--metrics-port", "0", "--callback-attempts", "1"):
            url = figures_url(tmp_path)
            found = until(
                url,
                lambda found: (
                    found["runfold_leases_swept_total", ()] == 1
                    and found["runfold_outbox_lag_events", ()] == 0
                    and found["runfold_outbox_deliveries", ("failed",)] == 1
                ),
            )
            _expect_ledger_figures(found, log)
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(url.removesuffix("/metrics"), timeout=10)


def _some_runs(log: Ledger) -> None:
    for _ in range(2):
        log.enqueue("wait")
    log.complete(log.enqueue("done", worker="w", callback_url="http://127.0.0.1:9/").id)
    log.fail(log.enqueue("done", worker="w").id, error="x")
    log.enqueue("lost", attempts_max=1)
    log.claim("gone", kinds=["lost"], lease_s=0.5)


def _expect_ledger_figures(found: Samples, log: Ledger) -> None:
    runs = {labels: value for (name, labels), value in found.items() if name == "runfold_runs"}
    assert {("done", "completed"): 1, ("done", "failed"): 1, ("lost", "failed"): 1, ("wait", "queued"): 2} == runs
    assert 2 == found["runfold_tasks", ("wait", "waiting")]
    assert {("wait",)} == {labels for name, labels in found if name == "runfold_oldest_waiting_seconds"}
    assert 0 < found["runfold_oldest_waiting_seconds", ("wait",)] < 120
    assert log.store.read_log(after_position=2**62, limit=1).settled_position == found["runfold_log_position", ()]


def test_ledger_figures_when_positions_have_holes(shared_url: str) -> None:
    """An outbox that has looked at every event lags behind by none, though positions above them are burnt."""
    with ledger.open(shared_url, migrate=True) as log:
        run = log.enqueue("test", worker="w").id
        again = "0192f3a0-0000-7000-9000-000000000001"
        for _ in range(3):
            log.increment_stats(run, passed=1, event_id=again)
        last = [*log.read(run)][-1].position
        outbox = Outbox(log)
        before = plain_figures(log)
        outbox.step()
        after = plain_figures(log)
        outbox.close()

    assert (last, last) == (before["runfold_log_position"], before["runfold_outbox_lag_events"])
    assert (last, 0) == (after["runfold_log_position"], after["runfold_outbox_lag_events"])


def plain_figures(log: Ledger) -> dict[str, float]:
    return {family.measure.name: family.values[()] for family in ledger_families(log) if () in family.values}


def test_server_figures_when_asked(shared_url: str, tmp_path: Path) -> None:
    """A server tells the same of the ledger, beside what it counts of its requests."""
    with ledger.open(shared_url, migrate=True) as log, serving(shared_url, tmp_path) as server:
        _some_runs(log)
        time.sleep(0.6)
        log.sweep()

        found = samples(server.get("/metrics").content.decode())
        again = samples(server.get("/metrics").content.decode())

        _expect_ledger_figures(found, log)
        assert 0 < found["runfold_outbox_lag_events", ()]
        assert 1 == again["runfold_http_requests_total", ("metrics", "200")]
        assert 1 == again["runfold_http_request_seconds_count", ("metrics",)]


def test_metrics_port_when_it_is_taken(sqlite_url: str, tmp_path: Path) -> None:
    """A port that somebody has ends the command, and says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = runfold("daemon", "--url", sqlite_url, "--metrics-port", port, folder=tmp_path)

    assert 2 == done.code
    assert "--metrics-port" in done.err


def test_telemetry_when_it_goes_through_processes(shared_url: str, tmp_path: Path) -> None:
    """From an enqueue to the command that a worker runs: a collector gets spans that belong together, and measures."""
    ledger.open(shared_url, migrate=True).close()
    with collecting() as collector:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_METRIC_EXPORT_INTERVAL": "500"}
        passed_on = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        run = runfold(
            *("enqueue", "test", "--project", "web", "--url", shared_url),
            folder=tmp_path,
            env={**env, "TRACEPARENT": passed_on},
        ).rows[0][0]
        command = ("worker", "--url", shared_url, "--kind", "test", "--until-idle", "--log-format", "json", "--")
        done = runfold(*command, "sh", "-c", "echo context=$TRACEPARENT", folder=tmp_path, env=env)
        assert 0 == done.code, done.err
        asked, attempt = collector.wait_for(2)

        assert ("enqueue test", "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331") == (
            asked.name,
            asked.trace_id,
            asked.parent_id,
        )
        assert ("run test", [asked.traceparent], "") == (attempt.name, attempt.links, attempt.parent_id)
        assert ("runfold", run, "succeeded") == (
            attempt.service,
            attempt.attributes["runfold.run_id"],
            attempt.attributes["runfold.outcome"],
        )
        assert 1 == collector.metrics["runfold.work_seconds"]["test", "succeeded", "run"]
    with ledger.open(shared_url) as log:
        said = [line for event in log.read(run) if isinstance(event.data, LogAppended) for line in event.data.lines]
    assert [f"context={attempt.traceparent[:52]}"] == [line[:60] for line in said]  # without the flags
    told = [json.loads(line) for line in done.err.splitlines()]
    ended = [line["traceparent"] for line in told if line["message"].startswith("succeeded")]
    assert [attempt.traceparent[:52]] == [each[:52] for each in ended]


def test_telemetry_when_a_server_is_asked(sqlite_url: str, tmp_path: Path) -> None:
    """A run that is asked for over HTTP keeps the context of the server's span, a child of the caller's."""
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with collecting() as collector, serving(sqlite_url, tmp_path, env=_to(collector)) as server:
        runs = [
            server.post("/v1/runs", {"kind": "test", "project": "web"}, traceparent=caller, **key).json
            for key in ({}, {"Idempotency-Key": "k1"})
        ]
        spans = collector.wait_for(2)
        with ledger.open(sqlite_url) as log:
            kept = [next(log.read(run["run_id"], up_to=1)).envelope.traceparent for run in runs]

    assert {"b7ad6b7169203331"} == {span.parent_id for span in spans}
    assert {span.traceparent[:52] for span in spans} == {each[:52] for each in kept if each is not None}
    assert {"enqueue test"} == {span.name for span in spans}


def _to(collector: Collector) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/v1/traces", "OTEL_BSP_SCHEDULE_DELAY": "100"}


def test_telemetry_when_the_collector_is_gone(sqlite_url: str, tmp_path: Path) -> None:
    """A collector that does not answer keeps no command from its work, and not for long from its end."""
    began_at = time.monotonic()
    done = runfold(
        *("enqueue", "test", "--url", sqlite_url),
        folder=tmp_path,
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
    )

    assert 0 == done.code
    assert time.monotonic() - began_at < 15
    with ledger.open(sqlite_url) as log:
        assert "queued" == log.state(done.rows[0][0]).status


MODULES = """
import json, sys
from cli.main import main
code = main(json.loads(sys.argv[1]))
found = {name.partition(".")[0] for name in sys.modules}
print(json.dumps([code, sorted(found & {"opentelemetry", "prometheus_client", "google", "requests", "cronsim"}),
    sorted(name for name in sys.modules if name.startswith(("cli.telemetry.", "http.server")))]), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "args",
    [
        ("enqueue", "test"),
        ("retry", "--help"),
        ("worker", "--kind", "test", "--until-idle", "--", "true"),
        ("list",),
        ("daemon", "--help"),
    ],
)
@pytest.mark.parametrize("env", [{}, {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}])
def test_imports_when_nobody_asks_for_telemetry(
    sqlite_url: str, tmp_path: Path, args: Sequence[str], env: dict[str, str]
) -> None:
    """Without being asked to, nothing imports OpenTelemetry, Prometheus or what serves figures."""
    ledger.open(sqlite_url, migrate=True).close()
    given = [*args[: args.index("--")], "--url", sqlite_url, *args[args.index("--") :]] if "--" in args else None
    done = subprocess.run(
        [sys.executable, "-c", MODULES, json.dumps(given or [*args, "--url", sqlite_url])],
        cwd=tmp_path,
        env=environment(tmp_path, **env),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    code, found, own = json.loads(done.stderr.splitlines()[-1])
    assert (0, []) == (code, found)
    assert set(own) <= {"cli.telemetry.asked", "cli.telemetry.watching"}


def test_imports_when_the_library_is_used() -> None:
    """A worker in somebody's own process brings no telemetry with it."""
    program = "import sys, ledger, cli.worker, cli.schedules.schedules, projections; print(sorted(sys.modules))"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert "opentelemetry" not in done.stdout
    assert "prometheus" not in done.stdout
