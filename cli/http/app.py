"""The server: from a request to the ledger and back.

A request is identified, counted against its token's rate, and read, in that order and on the event loop; then its
handler runs in a thread, since the ledger is synchronous. Writes and reads have threads of their own. Every answer that
is no success is a problem of `cli.http.problems`, whoever made it.
"""

import asyncio
import itertools
import logging
import re
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from cli.http import limits, stream
from cli.http.auth import Authenticator, Identity, RateLimit
from cli.http.enqueues import Enqueues
from cli.http.messages import Message, Nothing, event_answer
from cli.http.metrics import Metrics
from cli.http.openapi import openapi
from cli.http.operations import Call, Operation, Reply
from cli.http.problems import (
    BodyTimeout,
    BodyTooLarge,
    MalformedKey,
    MalformedRequest,
    MediaTypeUnknown,
    MethodNotAllowed,
    OriginRefused,
    Overloaded,
    PathNotFound,
    RequestInFlight,
    TokenRefused,
    headers_of,
    problem,
    status_of,
)
from cli.http.routes import OPERATIONS, consumer_of, fetched, labels_of, read_lease
from cli.http.stream import Hub, Subscriber
from cli.http.tokens import TokenTable
from cli.telemetry.ledger_figures import ledger_families
from ledger import limits as ledger_limits
from ledger.api import Ledger
from ledger.clock import monotonic
from ledger.errors import InvalidInput
from ledger.events import RunId
from ledger.interop import display_strings
from ledger.run.values import check_text, check_uuid
from projections.reader import Runs

if TYPE_CHECKING:
    from cli.telemetry.otel import Telemetry

LOGGER: Final = logging.getLogger("runfold.http")

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}", re.ASCII)
_KEY: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?", re.ASCII)
_ETAG: Final = re.compile(r'"([0-9]{1,15})"', re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]{1,15}", re.ASCII)
_ASKING: Final = frozenset({"enqueue", "retry"})
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})

Answered = TypeVar("Answered")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a server is run.

    Attributes:
        requests_per_s: Of one token; 0 is any number.
        logs_requests: Whether each answer is logged: method, path without its query, status, time, token's id.
    """

    requests_per_s: float = limits.REQUESTS_PER_S
    logs_requests: bool = False


class Service:
    """What the endpoints share. It belongs to one event loop.

    Args:
        log: The ledger; closed by whoever opened it.
        tokens: Who may use it; None lets everybody, which is for loopback only.
        options: How it is run.
        telemetry: Makes spans of asking for runs; None makes none.
    """

    def __init__(
        self, log: Ledger, *, tokens: TokenTable | None, options: Options, telemetry: "Telemetry | None" = None
    ) -> None:
        self.log = log
        self.runs = Runs(log)
        self.facts = log.facts
        self.metrics = Metrics()
        self.auth = Authenticator(tokens)
        self.options = options
        self.telemetry = telemetry
        self._rate = RateLimit(options.requests_per_s)
        self._writers = ThreadPoolExecutor(limits.WRITERS, "runfold-write")
        self._readers = ThreadPoolExecutor(limits.READERS, "runfold-read")
        self.enqueues = Enqueues(log, writers=self._writers)
        self.hub = Hub(log, facts=self.facts, readers=self._readers, metrics=self.metrics)
        self._waiting = 0
        self._in_flight: set[tuple[str | None, ...]] = set()
        self._admitted: OrderedDict[tuple[str, str], None] = OrderedDict()

    def close(self) -> None:
        """End the threads; what they do is finished first, and what waits for one is not begun."""
        self.hub.close()
        self.hub.join(limits.SHUTDOWN_S)
        self._writers.shutdown(cancel_futures=True)
        self._readers.shutdown(cancel_futures=True)

    async def in_thread(self, work: Callable[..., Answered], *arguments: Any, is_write: bool = False) -> Answered:
        """Do something that blocks.

        Raises:
            Overloaded: when too many requests wait already.
        """
        if self._waiting >= limits.WAITING_MAX:
            raise Overloaded(f"{limits.WAITING_MAX:,} requests wait already. Try again in a moment.")
        self._waiting += 1
        try:
            pool = self._writers if is_write else self._readers
            return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)
        finally:
            self._waiting -= 1

    async def identify(self, headers: Mapping[str, str]) -> Identity:
        """Find out who asks, and count it."""
        if not self.auth.asks_for_tokens:
            _require_local(headers)
        identity = await self.recognize(headers.get("authorization"))
        self._rate.take(identity)
        return identity

    async def recognize(self, authorization: str | None) -> Identity:
        """Find out who somebody is, by what is known or in the table."""
        known = self.auth.known(authorization)
        return await self.in_thread(self.auth.identify, authorization) if known is None else known

    # --- in a thread --------------------------------------------------------------------------------------------

    def answer(self, operation: Operation, call: Call[Any, Any]) -> tuple[Reply, bytes]:
        """Run a handler, and write its document."""
        if "run_id" in call.path:
            self.admit(call.identity, call.path["run_id"])
        reply = operation.run(call)
        if reply.document is None:
            return reply, b""
        return reply, msgspec.json.encode(reply.document)

    def admit(self, identity: Identity, run_id: str) -> RunId:
        """Check that somebody may know of a run.

        What is remembered is remembered for each token, so that a run that is not theirs costs the same read, and
        gives the same answer, as one that does not exist.

        Raises:
            RunNotFound: when they may not, or there is none.
        """
        run = RunId(check_uuid(run_id, field="run_id"))
        if identity.projects is None or identity.token_id is None:
            return run
        key = identity.token_id, run
        if key not in self._admitted:
            identity.require_run(run, self.facts.read(run).project)
            self._admitted[key] = None
            if len(self._admitted) > limits.ADMITTED_RUNS_MAX:
                self._admitted.clear()
        return run

    def events(self, call: Call[Any, Any]) -> tuple[Reply, bytes]:
        query = call.query
        call.identity.require_project(query.project) if query.project is not None else None
        wanted = stream.filtered(query, labels=labels_of(query.label), projects=call.identity.projects)
        found, next_after, more = stream.select(self.log, self.facts, wanted, after=query.after, limit=query.limit)
        document = {"events": [event_answer(event) for event in found], "next_after": next_after, "more": more}
        return Reply(document), msgspec.json.encode(document)

    def ready(self) -> None:
        """Read something.

        Raises:
            StoreUnavailable: when the ledger cannot be read.
        """
        self.log.store.find([])
        self.log.store.read_log(after_position=0, limit=1)

    def figures(self) -> str:
        return self.metrics.text(
            {
                "runfold_subscribers": ("Open streams.", self.hub.subscriber_count),
                "runfold_requests_waiting": ("Requests in or before a thread.", self._waiting),
                "runfold_tail_position": ("Position up to which subscribers were told.", self.hub.position),
            },
            ledger_families(self.log),
        )

    def claim_key(self, call: Call[Any, Any]) -> Callable[[], None]:
        """Let one request at a time use an idempotency key, which is its project's; of a retry, its run's.

        Raises:
            RequestInFlight: when another one does.
        """
        key = call.idempotency_key
        if key is None:
            return lambda: None
        claimed = call.identity.token_id, getattr(call.body, "project", None), call.path.get("run_id"), key
        if claimed in self._in_flight:
            raise RequestInFlight(
                f"a request with the Idempotency-Key {key!r} is still being answered. Ask again in a moment: the"
                " answer will be that request's.",
                key=key,
            )
        self._in_flight.add(claimed)
        return lambda: self._in_flight.discard(claimed)

    async def not_found(self, request: Request, _error: Exception) -> Response:
        """Answer for a path that there is not."""
        error = PathNotFound(f"there is nothing at {request.url.path}. GET /openapi.json tells what there is.")
        request_id = _request_id(_headers(request.scope))
        self.note(request, None, status_of(error), 0, request_id, None)
        return problem_response(error, request_id=request_id, path=request.url.path)

    def note(
        self, request: Request, operation: Operation | None, status: int, seconds: float, request_id: str,
        token_id: str | None,
    ) -> None:  # fmt: skip
        """Count an answer, and log it when that was asked for."""
        self.metrics.count("none" if operation is None else operation.name, status, seconds)
        if self.options.logs_requests:
            LOGGER.info(
                "%s %s %d %.1f ms request=%s token=%s",
                request.method, request.url.path, status, seconds * 1_000, request_id, token_id or "-",
            )  # fmt: skip


def _require_local(headers: Mapping[str, str]) -> None:
    """Let no web page use a server that asks for no tokens: neither by a form, nor by a name that means loopback.

    Raises:
        OriginRefused: when a page of another host asks, or asks in the name of another host.
    """
    host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
    origin = headers.get("origin")
    if host in _LOOPBACK and (origin is None or (urlsplit(origin).hostname or "") in _LOOPBACK):
        return
    raise OriginRefused(
        f"this server has no tokens, so it answers only to its own machine, not to {origin or host!r}."
        " Start it with --auth, and send a token."
    )


class Endpoint:
    """All operations of one path, as an ASGI application.

    Args:
        service: What the endpoints share.
        operations: By their method.
    """

    def __init__(self, service: Service, operations: Mapping[str, Operation]) -> None:
        self._service = service
        self._operations = operations
        self._decoders = {
            operation.name: msgspec.json.Decoder(operation.body)
            for operation in operations.values()
            if operation.body is not None
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, headers = Request(scope, receive), _headers(scope)
        began, request_id = monotonic(), _request_id(headers)
        operation = self._operations.get(request.method)
        token_id, status = None, 500
        try:
            if operation is None:
                raise _not_allowed(self._operations)
            if operation.scope is None:
                response = await self._open(operation)
            else:
                identity = await self._service.identify(headers)
                token_id = identity.token_id
                identity.require(operation.scope)
                if operation.needs_every_project:
                    identity.require_every_project()
                if operation.is_stream:
                    status = await self._stream(operation, identity, request, headers, request_id, send)
                    return
                response = await self._answer(operation, identity, request, headers, request_id)
            status = response.status_code
            response.headers["X-Request-Id"] = request_id
            await response(scope, receive, send)
        except ClientDisconnect:
            status = 499
        except Exception as error:
            status = status_of(error)
            if status == 500:
                LOGGER.exception("request %s failed", request_id)
            await problem_response(error, request_id=request_id, path=request.url.path)(scope, receive, send)
        finally:
            self._service.note(request, operation, status, monotonic() - began, request_id, token_id)

    # --- answers ------------------------------------------------------------------------------------------------

    async def _open(self, operation: Operation) -> Response:
        if operation.name == "openapi":
            return Response(await self._service.in_thread(_openapi), media_type="application/json")
        if operation.name == "readyz":
            await self._service.in_thread(self._service.ready)
        return Response(b'{"status":"ok"}', media_type="application/json")

    async def _answer(
        self, operation: Operation, identity: Identity, request: Request, headers: Mapping[str, str], request_id: str
    ) -> Response:
        service = self._service
        if operation.name == "metrics":
            figures = await service.in_thread(service.figures)
            return Response(figures, media_type=operation.media_type)
        call = await self._call(operation, identity, request, headers, request_id)
        if service.telemetry is None or operation.name not in _ASKING:
            return await self._answer_call(operation, identity, request, call)
        kind, project = getattr(call.body, "kind", "retry"), getattr(call.body, "project", None)
        with service.telemetry.asking(call.log, kind, project=project) as log:
            return await self._answer_call(operation, identity, request, replace(call, log=log))

    async def _answer_call(
        self, operation: Operation, identity: Identity, request: Request, call: Call[Any, Any]
    ) -> Response:
        service = self._service
        run = service.events if operation.name == "events" else lambda call: service.answer(operation, call)
        done = service.claim_key(call)
        try:
            if operation.name == "fetch_consumer":
                reply = await self._fetch(call, request)
                body = msgspec.json.encode(reply.document)
            elif operation.name == "enqueue" and service.enqueues.takes(call):
                reply = await service.enqueues.enqueue(call)
                body = msgspec.json.encode(reply.document)
            else:
                reply, body = await service.in_thread(run, call, is_write=operation.is_write)
        finally:
            done()
        answered = dict(reply.headers)
        if reply.version is not None:
            answered["ETag"] = f'"{reply.version}"'
        return Response(body, status_code=reply.status, headers=answered, media_type=operation.media_type)

    async def _fetch(self, call: Call[Any, Any], request: Request) -> Reply:
        """Look for a batch until there is one or the caller's patience is over; nothing waits in a thread."""
        service, body = self._service, call.body
        consumer = await service.in_thread(consumer_of, call)
        search = consumer.search(limit=body.limit, lease_s=body.lease_s)
        give_up_at = monotonic() + body.wait_s
        if body.wait_s:
            await service.hub.start()
        with service.hub.waiting(consumer.settings.wanted) as wake:
            while True:
                wake.clear()  # before the look: what is handed out during it wakes
                batch = await service.in_thread(search.look, is_write=True)
                left_s = give_up_at - monotonic()
                if batch is not None or service.hub.is_closed or await request.is_disconnected():
                    break
                if search.has_more:  # None says that nothing is there, so it has to be looked for
                    await service.in_thread(search.pass_over, is_write=True)
                    continue
                if left_s <= 0:
                    break
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(left_s, limits.FETCH_POLL_S)):
                        await wake.wait()
        if batch is None:
            await service.in_thread(search.pass_over, is_write=True)
            return fetched(None, ())
        if await request.is_disconnected():  # nobody will acknowledge it
            await service.in_thread(consumer.hand_back, batch, is_write=True)
            raise ClientDisconnect
        facts = await service.in_thread(service.facts.of_all, batch.events)
        return fetched(batch, [each.project for each in facts])

    async def _call(
        self, operation: Operation, identity: Identity, request: Request, headers: Mapping[str, str], request_id: str
    ) -> Call[Any, Any]:
        query = _query(operation.query, request.scope["query_string"])
        version = _expected_version(operation, headers)
        lease = read_lease(headers["runfold-lease"]) if operation.takes_lease and "runfold-lease" in headers else None
        body = await self._body(operation, request) if operation.body is not None else Nothing()
        log = self._service.log
        if operation.is_write:
            log = log.bind(
                actor=_actor(identity, headers),
                correlation_id=_text(headers, "x-correlation-id") or request_id,
                causation_id=_text(headers, "x-causation-id"),
                traceparent=headers.get("traceparent"),
            )
            log = log if version is None else log.expecting(version)
            log = log if lease is None or operation.needs_lease else log.under(lease)
        return Call(
            log=log,
            runs=self._service.runs,
            identity=identity,
            path=request.path_params,
            query=query,
            body=body,
            idempotency_key=_idempotency_key(headers) if operation.takes_key else None,
            expected_version=version,
            lease=lease,
            if_none_match=headers.get("if-none-match"),
        )

    async def _body(self, operation: Operation, request: Request) -> Any:
        content = await _content(request)
        if content and not _is_json(request.headers.get("content-type", "")):
            raise MediaTypeUnknown("the body must be JSON: send it with `Content-Type: application/json`.")
        try:
            return self._decoders[operation.name].decode(content or b"{}")
        except msgspec.ValidationError as exc:
            raise _invalid(exc) from exc
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise MalformedRequest(f"the body is no JSON: {exc}. Nothing was written.") from exc

    # --- streams ------------------------------------------------------------------------------------------------

    async def _stream(
        self,
        operation: Operation,
        identity: Identity,
        request: Request,
        headers: Mapping[str, str],
        request_id: str,
        send: Send,
    ) -> int:
        service = self._service
        query: Any = _query(operation.query, request.scope["query_string"])
        after = _last_event_id(headers)
        after = query.after if after is None else after
        service.hub.require_room()
        await service.hub.start()
        subscriber = await self._subscriber(identity, request, query, after)
        if subscriber is None:
            await send({"type": "http.response.start", "status": 204, "headers": [_header("X-Request-Id", request_id)]})
            await send({"type": "http.response.body", "body": b""})
            return 204
        subscriber.cut = _cutter(request)
        answered = [
            _header("Content-Type", "text/event-stream; charset=utf-8"),
            _header("Cache-Control", "no-store"),
            _header("X-Accel-Buffering", "no"),
            _header("X-Request-Id", request_id),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": answered})
        watching = asyncio.create_task(_watch(request, subscriber))
        try:
            await self._send_all(subscriber, request, send)
        except (TimeoutError, OSError):  # it takes nothing any more, or is gone
            subscriber.cut()
        except Exception as error:  # the status line is out: all there is left is to end, and it comes back
            LOGGER.warning("stream %s ends: %s", request_id, error)
            subscriber.cut()
        finally:
            watching.cancel()
        return 200

    async def _subscriber(
        self, identity: Identity, request: Request, query: Any, after: int | None
    ) -> Subscriber | None:
        service = self._service
        run_id = request.path_params.get("run_id")
        if run_id is None:
            if query.project is not None:
                identity.require_project(query.project)
            wanted = stream.filtered(query, labels=labels_of(query.label), projects=identity.projects)
            return Subscriber(wanted, service.hub.position if after is None else after)
        run = await service.in_thread(service.admit, identity, run_id)
        state = await service.in_thread(service.log.state, run)
        if state.is_terminal and after is not None and after >= state.position:
            return None
        return Subscriber(stream.filtered(query, labels={}, projects=None), after or 0, run_id=run)

    async def _send_all(self, subscriber: Subscriber, request: Request, send: Send) -> None:
        service, authorization = self._service, request.headers.get("authorization")
        checked = monotonic()
        await _send(send, stream.opening(subscriber.cursor))
        async for chunk in service.hub.chunks(subscriber):
            if monotonic() - checked > limits.IDENTITY_FRESH_S:
                try:
                    await service.recognize(authorization)
                except TokenRefused:
                    break  # it expired or was revoked; whoever comes back is told
                checked = monotonic()
            await _send(send, chunk or stream.heartbeat(subscriber.cursor))
        with_end = {"type": "http.response.body", "body": b"", "more_body": False}
        await send(with_end)


async def _send(send: Send, chunk: bytes) -> None:
    async with asyncio.timeout(limits.SEND_TIMEOUT_S):
        await send({"type": "http.response.body", "body": chunk, "more_body": True})


async def _watch(request: Request, subscriber: Subscriber) -> None:
    """Notice that a subscriber went away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    subscriber.is_over = True
    subscriber.wake.set()


def _cutter(request: Request) -> Callable[[], None]:
    """Give what ends a connection at once: a slow client would hold up a polite end as it holds up the events."""
    transport = request.scope.get("state", {}).get("transport")
    return (lambda: None) if transport is None else transport.abort


def _header(name: str, value: str) -> tuple[bytes, bytes]:
    return name.lower().encode(), value.encode("latin-1")


# --- requests ---------------------------------------------------------------------------------------------------


def _headers(scope: Scope) -> dict[str, str]:
    """Read all headers once; Starlette's looks through the list for each, which was a tenth of a request."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def _request_id(headers: Mapping[str, str]) -> str:
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else f"{_PROCESS}{next(_REQUESTS):08x}"


_PROCESS: Final = secrets.token_hex(4)
_REQUESTS: Final = itertools.count()
"""Request ids count up behind a random word: reading the system's random source for each waits for other threads."""


def _actor(identity: Identity, headers: Mapping[str, str]) -> str | None:
    given = unquote(headers.get("runfold-actor", "")) or None
    if not identity.name:
        return given
    return identity.name if not given else f"{given} via {identity.name}"


def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"


async def _content(request: Request) -> bytes:
    """Read a body that is not too long.

    Raises:
        BodyTooLarge: before it is read, when it says so itself.
        BodyTimeout: when it does not come.
    """
    declared = request.headers.get("content-length", "0")
    if not _NUMBER.fullmatch(declared) or int(declared) > limits.BODY_BYTES_MAX:
        raise _too_large()
    chunks, size = [], 0
    try:
        async with asyncio.timeout(limits.BODY_TIMEOUT_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limits.BODY_BYTES_MAX:
                    raise _too_large()
                chunks.append(chunk)
    except TimeoutError as exc:
        raise BodyTimeout(
            f"the body did not come within {limits.BODY_TIMEOUT_S:g} s. Nothing was written.",
            headers={"Connection": "close"},
        ) from exc
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(
        f"the body has more than {limits.BODY_BYTES_MAX:,} bytes. Nothing was written; send it in parts.",
        headers={"Connection": "close"},
        bytes_max=limits.BODY_BYTES_MAX,
    )


def _query(kind: type[Message], text: bytes) -> Any:
    """Read a query string; what is given twice must be a list."""
    if not text:
        values: dict[str, Any] = {}
    else:
        try:
            given = parse_qs(text.decode("ascii"), keep_blank_values=True, max_num_fields=200, errors="strict")
        except ValueError as exc:
            raise InvalidInput("query", f"cannot be read: {exc}.") from exc
        lists = _LISTS[kind]
        values = {}
        for name, found in given.items():
            if name not in lists and len(found) > 1:
                raise InvalidInput(name, f"is given {len(found)} times; once is allowed.")
            values[name] = found if name in lists else found[0]
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as exc:
        raise _invalid(exc) from exc


def _list_fields(kind: type[Message]) -> frozenset[str]:
    return frozenset(
        field.name for field in msgspec.structs.fields(kind) if getattr(field.type, "__origin__", 0) is list
    )


_LISTS: Final = {operation.query: _list_fields(operation.query) for operation in OPERATIONS}


def _invalid(error: msgspec.ValidationError) -> InvalidInput:
    """Put what msgspec says into the ledger's words: `Expected … - at `$.field``."""
    why, _, place = str(error).partition(" - at `$")
    return InvalidInput(place.strip(".`") or "request", f"is not as it must be: {why}.")


def _text(headers: Mapping[str, str], name: str) -> str | None:
    """Read a header that may hold any text: bare, or as a Display String.

    Raises:
        MalformedRequest: when it begins like a Display String and is none.
    """
    given = headers.get(name)
    if given is None or not given.startswith(display_strings.PREFIX):
        return given
    text = display_strings.read(given)
    if text is None:
        raise MalformedRequest(f'{name} is no Display String: %"b%c3%bcro" is one (RFC 9651). Nothing was written.')
    return text


def _idempotency_key(headers: Mapping[str, str]) -> str | None:
    """Read the `Idempotency-Key`: a string of structured fields, the bare text, or a Display String, which may hold
    any text that the ledger takes for a key.

    Raises:
        MalformedKey: when it is none of these.
    """
    if "idempotency-key" not in headers:
        return None
    text = headers["idempotency-key"]
    if text.startswith(display_strings.PREFIX):
        shown = display_strings.read(text)
        if shown is None:
            raise MalformedKey('the Idempotency-Key is no Display String: %"b%c3%bcro-17" is one (RFC 9651).')
        return check_text(shown, field="Idempotency-Key", chars_max=ledger_limits.KEY_CHARS_MAX)
    if text.startswith('"'):
        inner = text[1:-1]
        if len(text) < 2 or not text.endswith('"') or re.search(r'(?<!\\)(?:\\\\)*(?:"|\\(?![\\"]))', inner):
            text = ""
        else:
            text = re.sub(r'\\([\\"])', r"\1", inner)
    if not _KEY.fullmatch(text):
        raise MalformedKey(
            'the Idempotency-Key is none: 1 to 255 visible ASCII characters, such as "build-17", are; any other text'
            " can be sent as a Display String (RFC 9651)."
        )
    return text


def _expected_version(operation: Operation, headers: Mapping[str, str]) -> int | None:
    """Read `If-Match`.

    Raises:
        MalformedRequest: when it is no ETag of a run, or the operation commutes and cannot wait for a version.
    """
    text = headers.get("if-match")
    if text is None or text == "*":
        return None
    found = _ETAG.fullmatch(text)
    if found is None or not operation.takes_version:
        raise MalformedRequest(
            f'If-Match {text!r} cannot be used here: the ETag of a run, such as "7", is, where a command decides on it.'
            " Nothing was written."
        )
    return int(found[1])


def _last_event_id(headers: Mapping[str, str]) -> int | None:
    text = headers.get("last-event-id")
    if not text:
        return None
    if not _NUMBER.fullmatch(text):
        raise MalformedRequest(f"Last-Event-ID {text!r} is no position. Send it as it came, or leave it out.")
    return int(text)


def _not_allowed(operations: Iterable[str]) -> MethodNotAllowed:
    allowed = ", ".join(sorted(operations))
    return MethodNotAllowed(f"this path takes {allowed} only.", headers={"Allow": allowed}, allowed=allowed)


def problem_response(error: BaseException, *, request_id: str, path: str) -> Response:
    """Give an error as a response."""
    return Response(
        problem(error, request_id=request_id, instance=path),
        status_code=status_of(error),
        headers={**headers_of(error), "X-Request-Id": request_id},
        media_type="application/problem+json",
    )


# --- the application --------------------------------------------------------------------------------------------


def make_app(service: Service) -> Starlette:
    """Make the ASGI application of a service."""
    paths: dict[str, dict[str, Operation]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = operation
    app = Starlette(
        # a path that ends with an id would take `id:verb` for an id, so the verbs come first
        routes=[
            Route(path, Endpoint(service, operations))
            for path, operations in sorted(paths.items(), key=lambda item: item[0].endswith("}"))
        ],
        exception_handlers={HTTPException: service.not_found},
        lifespan=_lifespan(service),
    )
    app.router.redirect_slashes = False
    return app


def _lifespan(service: Service) -> Callable[[Starlette], Any]:
    @asynccontextmanager
    async def living(_app: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    return living


@cache
def _openapi() -> bytes:
    return msgspec.json.encode(openapi(OPERATIONS))
