"""Spans of real workers on both databases: one an attempt, linked to whoever asked for the run."""

import threading
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

import ledger
from cli.schedules.schedules import Request, new_schedule, open_schedule_table, run_due
from cli.telemetry.otel import Telemetry
from cli.worker import NotRetryable, Work, Worker
from ledger import Kind, Ledger
from ledger.clock import utc_now

KINDS = (Kind(name="test", attempts_max=2), Kind(name="cut", attempts_max=1))


@pytest.fixture
def log(shared_url: str) -> Iterator[Ledger]:
    with ledger.open(shared_url, kinds=KINDS, migrate=True) as opened:
        yield opened


class Seen:
    """What one process's telemetry made, caught in memory."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        meters = MeterProvider([self._reader], shutdown_on_exit=False)
        self.telemetry = Telemetry(tracer_provider=self.tracers, meter_provider=meters)

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def points(self, name: str) -> dict[tuple[str, ...], float]:
        """Give a measure's values, or a histogram's counts, by its attributes in the order of their names."""
        data = self._reader.get_metrics_data()
        assert data is not None
        return {
            tuple(str(value) for _, value in sorted((point.attributes or {}).items())): getattr(
                point, "count", getattr(point, "value", 0)
            )
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        }


@pytest.fixture
def seen() -> Seen:
    return Seen()


def work_off(log: Ledger, seen: Seen, handler: object, **options: object) -> None:
    Worker(
        log,
        {"test": handler, "cut": handler},  # type: ignore[dict-item]
        name="w1",
        observer=seen.telemetry.observe,
        within=seen.telemetry.executing,
        on_swept=seen.telemetry.measures.swept,
        **options,  # type: ignore[arg-type]
    ).run(until_idle=True)


def traceparent(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return f"00-{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}-01"


def links(span: ReadableSpan) -> list[str]:
    return [
        f"00-{format_trace_id(each.context.trace_id)}-{format_span_id(each.context.span_id)}-01" for each in span.links
    ]


def test_spans_when_attempts_fail_and_succeed(log: Ledger, seen: Seen) -> None:
    """Each attempt is a trace of its own that links to the enqueueing; what it writes is in its own context."""
    with seen.telemetry.asking(log, "test", project="web") as asking:
        run = asking.enqueue("test", project="web").id

    def execute(work: Work) -> str:
        if work.lease.attempt == 1:
            raise ConnectionError("no route")
        work.append_results([{"testId": "a", "status": "passed"}])
        return "out"

    work_off(log, seen, execute)

    [asked] = seen.named("enqueue test")
    first, second = seen.named("run test")
    assert SpanKind.PRODUCER is asked.kind
    assert [[traceparent(asked)]] * 2 == [links(span) for span in (first, second)]
    assert (None, None, SpanKind.CONSUMER) == (first.parent, second.parent, second.kind)
    assert 3 == len({traceparent(span)[3:35] for span in (asked, first, second)})
    assert (StatusCode.ERROR, "ConnectionError") == (first.status.status_code, first.status.description)
    assert StatusCode.UNSET is second.status.status_code
    assert {
        "runfold.run_id": run,
        "runfold.kind": "test",
        "runfold.project": "web",
        "runfold.purpose": "run",
        "runfold.attempt": 2,
        "runfold.worker": "w1",
        "runfold.outcome": "succeeded",
    } == dict(second.attributes or {})
    assert "failed" == (first.attributes or {})["runfold.outcome"]
    told = {event.type: (event.envelope.traceparent or "")[:52] for event in log.read(run)}  # without its flags
    assert traceparent(asked)[:52] == told["enqueued"]
    assert traceparent(second)[:52] == told["shard_result_appended"]


def test_spans_when_a_run_is_cut(log: Ledger, seen: Seen) -> None:
    """Each shard and the finalization have a span, all linked to the one that asked."""
    with seen.telemetry.asking(log, "cut") as asking:
        asking.enqueue("cut", shard_count=3)

    work_off(log, seen, lambda work: None)

    [asked] = seen.named("enqueue cut")
    shards = seen.named("run shard of cut")
    [finalizing] = seen.named("finalize cut")
    assert {0, 1, 2} == {(span.attributes or {})["runfold.shard"] for span in shards}
    assert [[traceparent(asked)]] * 4 == [links(span) for span in [*shards, finalizing]]


def test_spans_when_nobody_traced_the_enqueueing(log: Ledger, seen: Seen) -> None:
    """A run that was asked for without telemetry is executed in a span that links to nothing."""
    log.enqueue("test")

    work_off(log, seen, lambda work: None)

    [span] = seen.spans
    assert [] == links(span)


def test_spans_when_the_asking_has_a_context(log: Ledger, seen: Seen) -> None:
    """The span of an enqueueing is a child of the current one, else of the context that was passed on."""
    passed_on = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with seen.telemetry.asking(log.bind(traceparent=passed_on), "test"):
        pass
    with (
        seen.tracers.get_tracer("app").start_as_current_span("request") as request,
        seen.telemetry.asking(log, "test"),
    ):
        pass

    of_passed_on, of_current = seen.named("enqueue test")
    assert of_passed_on.parent is not None
    assert of_current.parent is not None
    assert ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331") == (
        format_trace_id(of_passed_on.parent.trace_id),
        format_span_id(of_passed_on.parent.span_id),
    )
    assert request.get_span_context().span_id == of_current.parent.span_id


def test_spans_when_handlers_make_their_own(log: Ledger, seen: Seen) -> None:
    """What a handler traces, also one that is a coroutine, is part of its attempt's trace."""
    log.enqueue("test")
    log.enqueue("cut")
    tracer = seen.tracers.get_tracer("handler")

    async def in_loop(work: Work) -> None:
        with tracer.start_as_current_span(f"own {work.lease.kind}"):
            pass

    def in_thread(work: Work) -> None:
        with tracer.start_as_current_span(f"own {work.lease.kind}"):
            pass

    Worker(
        log,
        {"test": in_loop, "cut": in_thread},
        observer=seen.telemetry.observe,
        within=seen.telemetry.executing,
    ).run(until_idle=True)

    for kind in ("test", "cut"):
        [own], [attempt] = seen.named(f"own {kind}"), seen.named(f"run {kind}")
        assert own.parent is not None
        assert attempt.get_span_context() is not None
        assert attempt.get_span_context().span_id == own.parent.span_id  # type: ignore[union-attr]
    assert not trace.get_current_span().get_span_context().is_valid


def test_spans_when_the_lease_is_lost(log: Ledger, seen: Seen) -> None:
    """An attempt whose lease went to another ends its span as lost, once."""
    run = log.enqueue("test").id
    began = threading.Event()

    def execute(work: Work) -> None:
        if work.lease.attempt == 1:
            began.set()
            log.heartbeat([work.lease], lease_s=0.1)
            threading.Event().wait(0.2)
            log.sweep()
        work.append_results([{"testId": "a", "status": "passed"}])

    work_off(log, seen, execute, sweeps=False, concurrency=1)

    first, second = seen.named("run test")
    assert ("lost", StatusCode.ERROR) == ((first.attributes or {})["runfold.outcome"], first.status.status_code)
    assert "succeeded" == (second.attributes or {})["runfold.outcome"]
    assert "completed" == log.state(run).status


def test_measures_when_work_is_done(log: Ledger, seen: Seen) -> None:
    """Claims, waits and outcomes are counted by kind; the ledger's own figures are collected with them."""
    for how in ("well", "well", "badly"):
        log.enqueue("test", input={"how": how})
    log.enqueue("cut", shard_count=2)
    log.enqueue("nobody")

    def execute(work: Work) -> None:
        if work.input.get("how") == "badly":
            raise NotRetryable("no")

    work_off(log, seen, execute)
    seen.telemetry.watch(log)

    assert {("cut", "finalize"): 1, ("cut", "shard"): 2, ("test", "run"): 3} == seen.points("runfold.work_claimed")
    assert {("cut", "shard"): 2, ("test", "run"): 3} == seen.points("runfold.work_wait_seconds")
    assert {
        ("cut", "succeeded", "finalize"): 1,
        ("cut", "succeeded", "shard"): 2,
        ("test", "failed", "run"): 1,
        ("test", "succeeded", "run"): 2,
    } == seen.points("runfold.work_seconds")
    assert {("nobody", "waiting"): 1} == seen.points("runfold.tasks")
    assert {("cut", "completed"): 1, ("nobody", "queued"): 1, ("test", "completed"): 2, ("test", "failed"): 1} == (
        seen.points("runfold.runs")
    )
    assert {"nobody"} == {kind for (kind,) in seen.points("runfold.oldest_waiting_seconds")}


def test_spans_when_a_schedule_asks(log: Ledger, seen: Seen) -> None:
    """A schedule's run keeps the context of the daemon's span."""
    table = open_schedule_table(log.store)
    now = utc_now()
    made = new_schedule("s", cron="* * * * *", timezone="UTC", request=Request(kind="test"), now=now)
    table.add(made, actor=None)

    assert 1 == run_due(log, table, made.next_at, telemetry=seen.telemetry)

    [asked] = seen.named("enqueue test")
    work_off(log, seen, lambda work: None)
    [attempt] = seen.named("run test")
    assert [traceparent(asked)] == links(attempt)
