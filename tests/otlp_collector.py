"""A collector of OpenTelemetry: takes what exporters send by OTLP over HTTP, and keeps it."""

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Sent(NamedTuple):
    """A span as it was sent."""

    service: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    links: list[str]
    status: int
    attributes: dict[str, Any]

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-01"


class Collector:
    """What was sent.

    Attributes:
        url: Where exporters send to.
        metrics: By name, the attributes and the value or count of each point, the newest.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Sent] = []
        self.metrics: dict[str, dict[tuple[str, ...], float]] = {}
        self.changed = threading.Condition()

    def wait_for(self, count: int, timeout_s: float = 30) -> list[Sent]:
        """Wait until so many spans were sent."""
        give_up_at = time.monotonic() + timeout_s
        with self.changed:
            while len(self.spans) < count:
                assert self.changed.wait(give_up_at - time.monotonic()), self.spans
            return list(self.spans)

    def take_traces(self, body: bytes) -> None:
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = _facts(group.resource.attributes)["service.name"]
            for span in (span for scope in group.scope_spans for span in scope.spans):
                sent = Sent(
                    service,
                    span.name,
                    span.kind,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    [f"00-{link.trace_id.hex()}-{link.span_id.hex()}-01" for link in span.links],
                    span.status.code,
                    _facts(span.attributes),
                )
                self.spans.append(sent)

    def take_metrics(self, body: bytes) -> None:
        for group in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            for metric in (metric for scope in group.scope_metrics for metric in scope.metrics):
                data = getattr(metric, metric.WhichOneof("data"))
                self.metrics[metric.name] = {
                    tuple(str(value) for _, value in sorted(_facts(point.attributes).items())): _value(point)
                    for point in data.data_points
                }


@contextmanager
def collecting() -> Iterator[Collector]:
    """Collect until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            take = {"/v1/traces": collector.take_traces, "/v1/metrics": collector.take_metrics}[self.path]
            with collector.changed:
                take(body)
                collector.changed.notify_all()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _facts(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


def _value(point: Any) -> float:
    if hasattr(point, "bucket_counts"):
        return float(point.count)
    return float(getattr(point, point.WhichOneof("value")))
