"""A ledger behind `runfold serve`: the same interface as an open one, over HTTP.

    with ledger.open("https://runs.example.org", token="rf_…") as log:
        log.enqueue("test", project="web")

What is asked again after a lost answer is safe to be: every append that counts carries an event id of this client's
making, a run its id, and the rules take a repeated command for what it is. Artifacts and notes have no such id; a lost
answer to them is `OutcomeUnknown`, and they are not sent twice. An answer is lost with the connection, and when the
server says that it does not know itself what became of a commit.

Differs from a ledger on a database: `append` and `resolve` are not there, since the server keeps the rules; states are
folded here, from the run's history, by the same rules.
"""

import logging
import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from time import sleep
from types import TracebackType
from typing import Any, Final, Literal, Never, NoReturn, Self
from urllib.parse import quote, urlencode

import msgspec
import urllib3

import ledger.errors as errors
from ledger import limits
from ledger.api import (
    Ledger,
    Outcome,
    RunHandle,
    ShardOutcome,
    annotation,
    asked_of_many,
    check_leases,
    check_on_active,
    log_chunks,
    results_to_append,
)
from ledger.clock import monotonic, utc_now
from ledger.consumer import check_name
from ledger.conversion import converter
from ledger.envelope import Envelope
from ledger.errors import (
    InvalidInput,
    LedgerError,
    NotPermitted,
    OutcomeUnknown,
    RunClosed,
    RunNotFound,
    RunTaken,
    ShardSuperseded,
    StoreUnavailable,
)
from ledger.events import EventId, RecordedEvent, RunId
from ledger.ids import new_event_ids
from ledger.interop import display_strings
from ledger.interop.cloudevents import event_of_cloud, payload_of
from ledger.queue import Heartbeat, Swept
from ledger.remote_consumer import RemoteConsumer
from ledger.run.codec import NO_CONTEXT, Context, RecordedRunEvent, timestamp
from ledger.run.events import Enqueued
from ledger.run.leases import Lease
from ledger.run.state import RunState, fold, initial
from ledger.run.values import (
    JsonObject,
    check_integer,
    check_names,
    check_optional_text,
    check_results,
    check_text,
    check_time,
    check_uuid,
    one_event_id,
)
from ledger.store import Appended
from ledger.tasks import Task

TOKEN_VARIABLE: Final = "RUNFOLD_TOKEN"
TRY_S: Final = 30.0
"""How long a server that is out of reach, or too busy, is asked again."""
_SILENCE_S: Final = 1.0
"""How long a call is tried before somebody is told why it takes so long."""
_PAUSE_S: Final = 0.25
_PAUSE_MAX_S: Final = 5.0
_TIMEOUT: Final = urllib3.Timeout(connect=5, read=60)
_STREAM_TIMEOUT: Final = urllib3.Timeout(connect=5, read=45)
"""The server says something at least every 15 seconds."""
_PAGE_EVENTS: Final = 1_000
_PAGE_TASKS: Final = 1_000
_CONNECTIONS_MAX: Final = 32
_BUSY: Final = (429, 503)
_SHOWN_BYTES: Final = 64 * 1024
"""Of what answered instead of a stream."""

logger = logging.getLogger("runfold.remote")

_decode: Final = msgspec.json.Decoder().decode
_as_heartbeat: Final = converter(Heartbeat)
_as_swept: Final = converter(Swept)
_as_task: Final = converter(Task)


class RemoteLease(Lease, frozen=True, kw_only=True):
    """A lease, and the word that says it to the server. The word lives as long as whoever holds the lease."""

    word: str


_as_lease: Final = converter(RemoteLease)


class _LostOrBusy(Exception):
    """What a request that may be sent again came to.

    Attributes:
        error: What to tell when it is not sent again.
        is_lost: Whether it may have been done.
        wait_s: How long the server asks to wait; 0 when it does not say.
    """

    def __init__(self, error: LedgerError, *, is_lost: bool, wait_s: float = 0.0) -> None:
        super().__init__(str(error))
        self.error = error
        self.is_lost = is_lost
        self.wait_s = wait_s


class RemoteLedger(Ledger):
    """A ledger behind an HTTP server.

    Args:
        url: Of the server, such as `https://runs.example.org`.
        token: What allows it; None takes the environment's `RUNFOLD_TOKEN`, if there is one.
        context: Actor and trace of everything that is written.
    """

    def __init__(self, url: str, *, token: str | None = None, context: Context = NO_CONTEXT) -> None:
        self.url = url.rstrip("/")
        self._token = token or os.environ.get(TOKEN_VARIABLE)
        self._context = context
        self._clock = utc_now
        self._kinds = {}
        self._lease: Lease | None = None
        self._expected_version: int | None = None
        self._http = urllib3.PoolManager(maxsize=_CONNECTIONS_MAX, retries=False, timeout=_TIMEOUT)
        self._streams: weakref.WeakSet[RemoteSubscription] = weakref.WeakSet()

    @property
    def store(self) -> Never:  # type: ignore[override]
        """There is none here."""
        raise StoreUnavailable(
            f"{self.url} is a ledger behind a server: what was asked needs its database. Run it there, or with a"
            " database's URL."
        )

    def close(self) -> None:
        for stream in list(self._streams):
            stream.close()
        self._http.clear()

    # --- asking for a run -----------------------------------------------------------------------------------

    def enqueue(
        self,
        kind: str,
        *,
        project: str | None = None,
        input: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        shard_count: int | None = None,
        total: int | None = None,
        priority: int = 0,
        not_before: datetime | None = None,
        attempts_max: int | None = None,
        idempotency_key: str | None = None,
        exclusive_key: str | None = None,
        on_active: Literal["reject", "return", "supersede"] = "reject",
        parent_run_id: str | None = None,
        retry_of: str | None = None,
        plan: Sequence[Sequence[str]] = (),
        callback_url: str | None = None,
        worker: str | None = None,
        run_id: str | None = None,
    ) -> RunHandle:
        check_on_active(on_active)
        made_id, event = self._asked(  # what is wrong is told here as on a database
            kind,
            run_id,
            project=project,
            input=input,
            labels=labels,
            shard_count=shard_count,
            total=total,
            priority=priority,
            not_before=not_before,
            attempts_max=attempts_max,
            idempotency_key=idempotency_key,
            exclusive_key=exclusive_key,
            parent_run_id=parent_run_id,
            retry_of=retry_of,
            plan=plan,
            callback_url=callback_url,
        )
        body = {
            "kind": kind,
            "project": project,
            "input": event.input,
            "labels": event.labels,
            "shard_count": shard_count,
            "total": total,
            "priority": priority,
            "not_before": not_before,
            "attempts_max": attempts_max,
            "exclusive_key": exclusive_key,
            "on_active": on_active,
            "parent_run_id": parent_run_id,
            "retry_of": retry_of,
            "plan": event.plan,
            "callback_url": callback_url,
            "worker": check_optional_text(worker, field="worker", chars_max=limits.NAME_CHARS_MAX),
            # with a key, the key finds the run again; without one, the id does
            "run_id": made_id if idempotency_key is None or run_id is not None else None,
        }
        asked_before: list[bool] = []
        try:
            answer = self._send(
                "POST", "/v1/runs", body=body, headers=_key_header(idempotency_key), asked_before=asked_before
            )
        except LedgerError as error:
            if getattr(error, "code", None) == "run-id-taken" and asked_before and run_id is None:
                return RunHandle(RunId(made_id))  # our own first try had come through
            raise
        return RunHandle(RunId(answer["run_id"]), answer["is_new"])

    def enqueue_all(
        self, asked: Sequence[Mapping[str, Any]], *, by: Sequence[Ledger] | None = None
    ) -> list[RunHandle | Exception]:
        """Ask for many runs; see `Ledger.enqueue_all`. Here each is a request of its own.

        Once the server stayed out of reach for one, the others are not asked for, and have its error.
        """
        outcomes: list[RunHandle | Exception] = []
        for index, (facts, log) in enumerate(self._asked_by(asked, by)):
            try:
                outcomes.append(log.enqueue(**asked_of_many(facts, index=index)))
            except StoreUnavailable as error:
                return [*outcomes, *[error] * (len(asked) - index)]
            except LedgerError as error:
                outcomes.append(error)
        return outcomes

    def retry(
        self,
        run_id: str,
        *,
        shard: int | None = None,
        idempotency_key: str | None = None,
        on_active: Literal["reject", "return", "supersede"] = "reject",
    ) -> RunHandle:
        """Ask for a finished run once more; see `Ledger.retry`. Without a key a lost answer is `OutcomeUnknown`."""
        check_on_active(on_active)
        run = check_uuid(run_id, field="run_id")
        answer = self._send(
            "POST",
            f"/v1/runs/{run}:retry",
            body={"shard": shard, "on_active": on_active},
            headers=_key_header(idempotency_key),
            repeats=idempotency_key is not None,
        )
        return RunHandle(RunId(answer["run_id"]), answer["is_new"])

    def find_by_idempotency_key(self, key: str, *, project: str | None = None) -> Never:
        self._not_here("find_by_idempotency_key")

    def find_by_exclusive_key(self, key: str, *, project: str | None = None) -> Never:
        self._not_here("find_by_exclusive_key")

    # --- the life of a run ----------------------------------------------------------------------------------

    def release(self, run_id: str) -> Outcome:
        return self._command(run_id, "release", {})

    def start(self, run_id: str, *, worker: str, event_id: str | None = None) -> Outcome:
        return self._command(run_id, "start", {"worker": worker, "event_id": event_id or _new_id()})

    def enter_phase(self, run_id: str, phase: str) -> Outcome:
        return self._command(run_id, "enter-phase", {"phase": phase})

    def resolve_version(self, run_id: str, version: str) -> Outcome:
        return self._command(run_id, "resolve-version", {"resolved_version": version})

    def finish_gate(
        self, run_id: str, gate: str, outcome: str, *, summary: str | None = None, log_ref: str | None = None
    ) -> Outcome:
        body = {"gate": gate, "outcome": outcome, "summary": summary, "log_ref": log_ref}
        return self._command(run_id, "finish-gate", body)

    def fail_attempt(
        self, run_id: str, *, error: str, category: str | None = None, retry_at: datetime | None = None
    ) -> Outcome:
        return self._command(run_id, "fail-attempt", {"error": error, "category": category, "retry_at": retry_at})

    def interrupt(self, run_id: str, *, reason: str) -> Outcome:
        return self._command(run_id, "interrupt", {"reason": reason})

    def resume(self, run_id: str, *, worker: str) -> Outcome:
        return self._command(run_id, "resume", {"worker": worker})

    def request_abort(self, run_id: str, *, reason: str | None = None, deadline: datetime | None = None) -> Outcome:
        return self._command(run_id, "request-abort", {"reason": reason, "deadline": deadline})

    def start_finalization(self, run_id: str, *, worker: str) -> Outcome:
        return self._command(run_id, "start-finalization", {"worker": worker})

    def complete(
        self,
        run_id: str,
        *,
        output_ref: str | None = None,
        finished_at: datetime | None = None,
        duration_ms: int | None = None,
        event_id: str | None = None,
    ) -> Outcome:
        body = {"output_ref": output_ref, "finished_at": finished_at, "duration_ms": duration_ms}
        return self._command(run_id, "complete", {**body, "event_id": event_id or _new_id()})

    def fail(
        self,
        run_id: str,
        *,
        error: str,
        category: str | None = None,
        failure_summary: str | None = None,
        finished_at: datetime | None = None,
        duration_ms: int | None = None,
        event_id: str | None = None,
    ) -> Outcome:
        body = {
            "error": error,
            "category": category,
            "failure_summary": failure_summary,
            "finished_at": finished_at,
            "duration_ms": duration_ms,
        }
        return self._command(run_id, "fail", {**body, "event_id": event_id or _new_id()})

    def abort(
        self,
        run_id: str,
        *,
        reason: str | None = None,
        mode: str = "user",
        skipped: Sequence[Mapping[str, Any]] = (),
        finished_at: datetime | None = None,
        duration_ms: int | None = None,
        event_id: str | None = None,
    ) -> Outcome:
        body = {
            "reason": reason,
            "mode": mode,
            "skipped": check_results(skipped) if skipped else [],
            "finished_at": finished_at,
            "duration_ms": duration_ms,
        }
        return self._command(run_id, "abort", {**body, "event_id": event_id or _new_id()})

    def delete(self, run_id: str, *, reason: str | None = None) -> Outcome:
        return self._command(run_id, "delete", {"reason": reason})

    def restore(self, run_id: str) -> Outcome:
        return self._command(run_id, "restore", {})

    def purge(self, run_id: str, *, reason: str | None = None, from_bin: bool = True) -> Outcome:
        return self._command(run_id, "purge", {"reason": reason, "from_bin": from_bin})

    # --- what commutes --------------------------------------------------------------------------------------

    def append_results(
        self,
        run_id: str,
        results: Sequence[Mapping[str, Any]],
        *,
        shard: int | None = None,
        shard_attempt: int = 1,
        first_sequence: int | None = None,
        event_id: str | None = None,
    ) -> int:
        """Append results; see `Ledger.append_results`. More than one event holds are sent one event after the other."""
        checked = results_to_append(results, first_sequence=first_sequence, event_id=event_id)
        size, appended = limits.RESULTS_PER_EVENT_MAX, 0
        for start in range(0, len(checked), size):
            body = {
                "results": checked[start : start + size],
                "shard": shard,
                "shard_attempt": shard_attempt,
                "first_sequence": None if first_sequence is None else first_sequence + start,
                "event_id": event_id or _new_id(),
            }
            taken: int = self._post(run_id, "/results", body)["appended"]
            appended += taken
            if not taken:
                break
        return appended

    def increment_stats(
        self, run_id: str, *, passed: int = 0, failed: int = 0, total: int = 0, event_id: str | None = None
    ) -> int:
        body = {"passed": passed, "failed": failed, "total": total, "event_id": event_id or _new_id()}
        moved: int = self._post(run_id, "/stats", body)["moved"]
        return moved

    def append_log(
        self,
        run_id: str,
        lines: Sequence[str],
        *,
        source: str = "stdout",
        level: str | None = None,
        shard: int | None = None,
        event_id: str | None = None,
    ) -> int:
        """Append lines; see `Ledger.append_log`. A request is an event: what is refused for now was not written."""
        chunks = log_chunks(lines)
        event_ids = one_event_id(event_id, event_count=len(chunks)) or new_event_ids(len(chunks))
        for chunk, chunk_id in zip(chunks, event_ids, strict=True):
            body = {"lines": chunk, "source": source, "level": level, "shard": shard, "event_id": chunk_id}
            self._post(run_id, "/logs", body)
        return len(lines)

    def record_artifact(
        self,
        run_id: str,
        name: str,
        uri: str,
        *,
        shard: int | None = None,
        media_type: str | None = None,
        size_bytes: int | None = None,
    ) -> RecordedRunEvent:
        body = {"name": name, "uri": uri, "shard": shard, "media_type": media_type, "size_bytes": size_bytes}
        return _event(self._post(run_id, "/artifacts", body, repeats=False)["event"])

    def record_document(
        self, run_id: str, name: str, document: object, *, event_id: str | None = None
    ) -> RecordedRunEvent:
        body = {"name": name, "document": document, "event_id": event_id or _new_id()}
        return _event(self._post(run_id, "/documents", body, keeps_null=True)["event"])

    def annotate(
        self, run_id: str, *, note: str | None = None, labels: Mapping[str, str | None] | None = None
    ) -> RecordedRunEvent:
        noted = annotation(note=note, labels=labels)
        body = {"note": noted.note, "labels": noted.labels}
        return _event(self._post(run_id, "/notes", body, repeats=False)["event"])

    # --- shards ---------------------------------------------------------------------------------------------

    def complete_shard(
        self, run_id: str, shard: int, *, shard_attempt: int | None = None, exit_code: int | None = None
    ) -> ShardOutcome:
        body = {"shard_attempt": shard_attempt, "exit_code": exit_code}
        answer = self._post(run_id, f"/shards/{check_integer(shard, field='shard', at_least=0)}:complete", body)
        return ShardOutcome(answer["advanced"], answer["new_value"])

    def increment_shards_completed(self, run_id: str) -> ShardOutcome:
        try:
            answer = self._post(run_id, "/shards:count", {}, repeats=False)
        except RunNotFound:
            return ShardOutcome(False, 0)
        return ShardOutcome(answer["advanced"], answer["new_value"])

    def retry_shard(self, run_id: str, shard: int, *, reason: str | None = None) -> int:
        path = f"/shards/{check_integer(shard, field='shard', at_least=0)}:retry"
        attempt: int = self._post(run_id, path, {"reason": reason}, repeats=False)["attempt"]
        return attempt

    # --- work -----------------------------------------------------------------------------------------------

    def claim(
        self,
        worker: str,
        *,
        kinds: Sequence[str] | None = None,
        limit: int = 1,
        lease_s: float = limits.LEASE_S,
    ) -> list[Lease]:
        """Take what may be done now; see `Ledger.claim`. A claim whose answer is lost runs out by itself."""
        body = {
            "worker": worker,
            "kinds": None if kinds is None else check_names(kinds, field="kinds"),
            "limit": limit,
            "lease_s": lease_s,
        }
        answer = self._send("POST", "/v1/runs:claim", body=body, repeats=False)
        return [_as_lease({**given, "word": given["lease"]}) for given in answer["leases"]]

    def heartbeat(self, leases: Sequence[Lease], *, lease_s: float = limits.LEASE_S) -> list[Heartbeat]:
        return self._ask_after(leases, "/v1/runs:heartbeat", lease_s=lease_s)

    def look(self, leases: Sequence[Lease]) -> list[Heartbeat]:
        return self._ask_after(leases, "/v1/runs:look")

    def _ask_after(self, leases: Sequence[Lease], path: str, **more: float) -> list[Heartbeat]:
        check_leases(leases)
        if not leases:
            return []
        answer = self._send("POST", path, body={"leases": list(map(_word, leases)), **more})
        return list(map(_as_heartbeat, answer["heartbeats"]))

    def hold(self, run_id: str, *, lease_s: float = limits.LEASE_S) -> Never:
        self._not_here("hold")

    def succeed(
        self,
        lease: Lease,
        *,
        output_ref: str | None = None,
        exit_code: int | None = None,
        finished_at: datetime | None = None,
        event_id: str | None = None,
    ) -> Outcome:
        body = {"output_ref": output_ref, "exit_code": exit_code, "finished_at": finished_at}
        return self.under(lease)._command(lease.run_id, "succeed", {**body, "event_id": event_id or _new_id()})

    def succeed_all(self, leases: Sequence[Lease]) -> list[Outcome | Exception]:
        outcomes: list[Outcome | Exception] = []
        for lease in leases:
            try:
                outcomes.append(self.succeed(lease))
            except LedgerError as error:
                outcomes.append(error)
        return outcomes

    def give_up(
        self,
        lease: Lease,
        *,
        error: str,
        category: str | None = None,
        is_retryable: bool = True,
        event_id: str | None = None,
    ) -> Outcome:
        body = {"error": error, "category": category, "is_retryable": is_retryable}
        return self.under(lease)._command(lease.run_id, "give-up", {**body, "event_id": event_id or _new_id()})

    def hand_back(self, lease: Lease, *, reason: str) -> Outcome:
        return self.under(lease)._command(lease.run_id, "hand-back", {"reason": reason})

    def sweep(self, *, limit: int = limits.TASKS_PER_CLAIM_MAX) -> list[Swept]:
        answer = self._send("POST", "/v1/runs:sweep", body={"limit": limit}, repeats=False)
        return list(map(_as_swept, answer["swept"]))

    def tasks(
        self,
        *,
        run_id: str | None = None,
        kinds: Sequence[str] | None = None,
        after: tuple[str, int] | None = None,
        limit: int = limits.LIST_ROWS_MAX,
    ) -> Sequence[Task]:
        query = {
            "run_id": run_id,
            "kind": check_names(kinds or (), field="kinds"),
            "after": None if after is None else f"{after[0]}/{after[1]}",
            "limit": min(limit, _PAGE_TASKS),
        }
        return list(map(_as_task, self._send("GET", "/v1/tasks", query=query)["tasks"]))

    # --- the log --------------------------------------------------------------------------------------------

    def append(self, *_: object, **__: object) -> Never:
        self._not_here("append")

    def resolve(self, unknown: OutcomeUnknown) -> Appended:
        self._not_here("resolve")

    def read(
        self, run_id: str, *, after_version: int = 0, up_to: int | datetime | None = None
    ) -> Iterator[RecordedRunEvent]:
        run, version = (
            check_uuid(run_id, field="run_id"),
            check_integer(after_version, field="after_version", at_least=0),
        )
        latest = timestamp(check_time(up_to, field="up_to")) if isinstance(up_to, datetime) else None
        more = True
        while more:
            query = {"after": version, "limit": _PAGE_EVENTS}
            try:
                page = self._send("GET", f"/v1/runs/{run}/events", query=query)
            except RunNotFound:
                return
            for given in page["events"]:
                event = _event(given)
                if latest is not None and event.envelope.recorded_at > latest:
                    return
                if isinstance(up_to, int) and not isinstance(up_to, bool) and event.version > up_to:
                    return
                yield event
            version, more = page["next_after"], page["more"]

    def read_all(
        self, *, after: int = 0, types: Sequence[str] | None = None, page_size: int = limits.PAGE_EVENTS
    ) -> Iterator[RecordedRunEvent]:
        position, more = check_integer(after, field="after", at_least=0), True
        wanted = check_names(types or (), field="types")
        while more:
            query = {"after": position, "limit": min(page_size, _PAGE_EVENTS), "type": wanted}
            page = self._send("GET", "/v1/events", query=query)
            for given in page["events"]:
                yield _event(given)
            position, more = page["next_after"], page["more"]

    def subscribe(  # type: ignore[override]
        self, *, after: int = 0, types: Sequence[str] | None = None, run_id: str | None = None
    ) -> "RemoteSubscription":
        subscription = RemoteSubscription(self, after=after, types=types, run_id=run_id)
        self._streams.add(subscription)
        return subscription

    def consumer(  # type: ignore[override]
        self,
        name: str,
        *,
        types: Sequence[str] = (),
        kind: str | None = None,
        projects: Sequence[str] | None = None,
        labels: Mapping[str, str] | None = None,
        partitions: int = 1,
        after: int | None = 0,
    ) -> RemoteConsumer:
        """Open a named consumer; see `Ledger.consumer`. None for projects is all that the token is bound to."""
        body = {
            "name": name,
            "types": list(types),
            "kind": kind,
            "projects": None if projects is None else list(projects),
            "labels": dict(labels or {}),
            "partitions": partitions,
            "after": after,
            "from_now": after is None,
        }
        return RemoteConsumer(self._send, self._send("POST", "/v1/consumers", body=body))

    def find_consumer(self, name: str) -> RemoteConsumer:  # type: ignore[override]
        return RemoteConsumer(self._send, self._send("GET", f"/v1/consumers/{check_name(name)}"))

    def consumers(self) -> list[RemoteConsumer]:  # type: ignore[override]
        answer = self._send("GET", "/v1/consumers")
        return [RemoteConsumer(self._send, given) for given in answer["consumers"]]

    def state(self, run_id: str, *, at: int | datetime | None = None) -> RunState:
        run = RunId(check_uuid(run_id, field="run_id"))
        state = fold(initial(run), self.read(run, up_to=at))
        if state.version == 0:
            raise RunNotFound(run)
        return state

    def input_of(self, run_id: str) -> JsonObject | None:
        """Give what a run was asked to do; None when it was erased.

        Raises:
            RunNotFound: when there is no such run.
        """
        first = next(self.read(run_id, up_to=1), None)
        if first is None:
            raise RunNotFound(run_id)
        return first.data.input if isinstance(first.data, Enqueued) else None

    def ask(self, path: str, query: Mapping[str, Any]) -> Any:
        """Read something else that the server answers, as JSON; for the read models."""
        return self._send("GET", path, query=query)

    # --- over the wire --------------------------------------------------------------------------------------

    def _command(self, run_id: str, command: str, body: Mapping[str, Any]) -> Outcome:
        """Send a command that only one writer can win; again after a lost answer only where an event id makes it one.

        Without, what another did meanwhile would be undone: the attempt that he began be failed, say.
        """
        run = RunId(check_uuid(run_id, field="run_id"))
        try:
            expected = {} if self._expected_version is None else {"If-Match": f'"{self._expected_version}"'}
            path, repeats = f"/v1/runs/{run}:{command}", body.get("event_id") is not None
            answer = self._send("POST", path, body=body, headers=expected, repeats=repeats)
        except (RunClosed, RunTaken) as lost:
            if lost.winner is None:
                raise
            return Outcome(run, False, lost.winner)
        event = answer["event"]
        return Outcome(run, True, None if event is None else _event(event))

    def _post(
        self, run_id: str, path: str, body: Mapping[str, Any], *, repeats: bool = True, keeps_null: bool = False
    ) -> Any:
        run = check_uuid(run_id, field="run_id")
        return self._send("POST", f"/v1/runs/{run}{path}", body=body, repeats=repeats, keeps_null=keeps_null)

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        repeats: bool = True,
        keeps_null: bool = False,
        asked_before: list[bool] | None = None,
    ) -> Any:
        """Send a request, again while the server is out of reach or asks for patience.

        Raises:
            OutcomeUnknown: when the answer was lost and it must not be sent twice.
            StoreUnavailable: when the server stayed out of reach, or what answers is none.
            LedgerError: what the server answered.
        """
        content = None if body is None else _encoded(body, keeps_null=keeps_null)
        url, all_headers = self._url(path, query), self._headers(headers or {}, content)
        began_at, pause_s, is_told = monotonic(), _PAUSE_S, False
        while True:
            try:
                return self._send_once(method, url, content, all_headers)
            except _LostOrBusy as again:
                if again.is_lost and not repeats:
                    ids = getattr(again.error, "event_ids", ())
                    raise OutcomeUnknown(event_ids=ids, request=None) from again.error
                if again.is_lost and asked_before is not None:
                    asked_before.append(True)
                if monotonic() - began_at >= TRY_S:
                    raise again.error from again.__cause__
                wait_s = min(_PAUSE_MAX_S, again.wait_s or pause_s)
                if not is_told and monotonic() + wait_s - began_at >= _SILENCE_S:
                    is_told = True
                    what = "asks for patience" if again.__cause__ is None else "is not reachable"
                    logger.warning("%s %s, trying for %.0f s …", self.url, what, TRY_S)
                sleep(wait_s)
            pause_s = min(_PAUSE_MAX_S, pause_s * 2)

    def _send_once(self, method: str, url: str, content: bytes | None, headers: Mapping[str, str]) -> Any:
        try:
            response = self._http.request(method, url, body=content, headers=headers)
        except urllib3.exceptions.HTTPError as exc:
            never_came = isinstance(exc, urllib3.exceptions.NewConnectionError)
            raise _LostOrBusy(self._out_of_reach(exc), is_lost=not never_came) from exc
        if 200 <= response.status < 300:
            return self._read(response)
        error = error_of(response.status, response.data, url=self.url)
        is_lost = isinstance(error, OutcomeUnknown)  # the server does not know it either
        if not is_lost and response.status not in _BUSY:
            raise error
        asked = response.headers.get("Retry-After", "")
        raise _LostOrBusy(error, is_lost=is_lost, wait_s=float(asked) if asked.isdigit() else 0.0)

    def _read(self, response: urllib3.BaseHTTPResponse) -> Any:
        try:
            return _decode(response.data) if response.data else None
        except msgspec.DecodeError as exc:
            raise error_of(response.status, response.data, url=self.url) from exc

    def _out_of_reach(self, cause: Exception) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self.url} cannot be reached: {cause}. Check the URL, and that `runfold serve` runs there."
        )

    def _url(self, path: str, query: Mapping[str, Any] | None) -> str:
        pairs = [
            (name, _written(item))
            for name, value in (query or {}).items()
            for item in (value if isinstance(value, list) else [value])
            if item is not None
        ]
        return f"{self.url}{quote(path, safe='/:')}" + (f"?{urlencode(pairs)}" if pairs else "")

    def _headers(self, more: Mapping[str, str], content: bytes | None) -> dict[str, str]:
        told = {
            "Authorization": None if self._token is None else f"Bearer {self._token}",
            "Content-Type": None if content is None else "application/json",
            "Runfold-Lease": None if self._lease is None else _word(self._lease),
            "Runfold-Actor": None if self._context.actor is None else quote(self._context.actor, safe=" @:/+"),
            "X-Correlation-Id": _header(self._context.correlation_id),
            "X-Causation-Id": _header(self._context.causation_id),
            "traceparent": self._context.traceparent,
        }
        return {**{name: value for name, value in told.items() if value is not None}, **more}

    def _not_here(self, name: str) -> NoReturn:
        raise StoreUnavailable(
            f"`{name}` is not there over HTTP: {self.url} keeps the rules itself. Use a command, or the database's URL."
        )


class RemoteSubscription:
    """Follows a log over HTTP: what is there, then what comes. It comes back by position after a lost connection.

    Attributes:
        position: Of the last event that was delivered: what to remember, and to start after next time.
    """

    def __init__(self, log: RemoteLedger, *, after: int, types: Sequence[str] | None, run_id: str | None) -> None:
        self.position = check_integer(after, field="after", at_least=0)
        self._log = log
        self._types = check_names(types or (), field="types")
        self._run_id = None if run_id is None else check_uuid(run_id, field="run_id")
        self._closed = threading.Event()
        self._response: urllib3.BaseHTTPResponse | None = None
        self._events = self._follow()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> RecordedRunEvent:
        return next(self._events)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the subscription, from any thread."""
        self._closed.set()
        self._log._streams.discard(self)
        response = self._response
        if response is not None:
            with suppress(RuntimeError, ValueError, OSError):  # it is over already
                response.shutdown()  # a thread that reads it wakes; closing alone would wait for its next heartbeat
            response.close()

    def _follow(self) -> Iterator[RecordedRunEvent]:
        pause_s = _PAUSE_S
        while not self._closed.is_set():
            try:
                for event in self._stream():
                    self.position, pause_s = event.position, _PAUSE_S
                    yield event
                    if self._closed.is_set():
                        return
            except LedgerError:  # what it says will be so again
                self.close()
                raise
            except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError):
                pass  # cut off, restarted, or closed under us: come back after what was seen
            if self._closed.wait(pause_s):
                return
            pause_s = min(_PAUSE_MAX_S, pause_s * 2)

    def _stream(self) -> Iterator[RecordedRunEvent]:
        path = "/v1/events/stream" if self._run_id is None else f"/v1/runs/{self._run_id}/stream"
        url = self._log._url(path, {"after": self.position, "type": self._types})
        response = self._log._http.request(
            "GET",
            url,
            headers=self._log._headers({"Accept": "text/event-stream"}, None),
            preload_content=False,
            timeout=_STREAM_TIMEOUT,
        )
        self._response = response
        if self._closed.is_set():
            response.close()  # nobody else will: whoever closed us did not know of it yet
            return
        if response.status == 204:  # the run has ended, and everything was seen
            self._closed.wait(_PAUSE_MAX_S)
            return
        if response.status in _BUSY:
            return
        if response.status != 200 or not response.headers.get("Content-Type", "").startswith("text/event-stream"):
            raise error_of(response.status, response.read(_SHOWN_BYTES), url=self._log.url)
        data: list[str] = []
        kind = ""
        for line in _lines(response):
            if line.startswith("data:"):
                data.append(line[5:].lstrip())
            elif line.startswith("event:"):
                kind = line[6:].strip()
            elif not line and data:
                if kind != "end":
                    yield event_of_cloud(_decode("\n".join(data)))
                data, kind = [], ""


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[str]:
    partial = b""
    while chunk := response.read1():
        *lines, partial = (partial + chunk).split(b"\n")
        yield from [line.decode().rstrip("\r") for line in lines]


_KINDS: Final[dict[int, type[LedgerError]]] = {401: NotPermitted, 403: NotPermitted, 422: InvalidInput}
"""What an answer with an unknown code is, by its status."""


def error_of(status: int, data: bytes, *, url: str) -> LedgerError:
    """Make the error that a server's problem stands for; it has the message and the members of the original."""
    try:
        problem = _decode(data)
        code, detail = str(problem["code"]), str(problem["detail"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        problem, code = {}, ""
        shown = " ".join(data[:200].decode(errors="replace").split())
        detail = (
            f"{url} answered with {status}, and not as `runfold serve` does: {shown!r}. Check the URL, and what stands"
            " between."
        )
    kind = getattr(errors, "".join(word.capitalize() for word in code.split("-")), None)
    if not (isinstance(kind, type) and issubclass(kind, LedgerError)):
        kind = _KINDS.get(status) or (StoreUnavailable if status < 400 or status >= 500 else LedgerError)
    error = kind.__new__(kind)
    Exception.__init__(error, detail)
    winner = problem.get("winner")
    members = {**problem, "winner": None if winner is None else _event(winner), "code": code}
    if issubclass(kind, ShardSuperseded):
        members.setdefault("fence", "")
    for name, value in members.items():
        if name not in ("type", "title", "status", "detail", "instance"):
            setattr(error, name, value)
    return error


def _event(given: JsonObject) -> RecordedRunEvent:
    """Make an event again from what the server tells of it."""
    names = ("actor", "causation_id", "commitment", "correlation_id", "event_id", "recorded_at", "run_id",
             "schema_version", "traceparent", "type")  # fmt: skip
    envelope = Envelope(**{name: given[name] for name in names})
    data = None if given["data"] is None else payload_of(envelope, given["data"])
    return RecordedEvent(given["position"], given["version"], envelope, data)


def _encoded(body: Mapping[str, Any], *, keeps_null: bool) -> bytes:
    """Write a body; what is None is left out, for that is what it means everywhere but in a document."""
    kept = {name: value for name, value in body.items() if value is not None or (keeps_null and name == "document")}
    try:
        return msgspec.json.encode(kept)
    except (UnicodeEncodeError, RecursionError, TypeError, OverflowError, ValueError) as exc:
        raise InvalidInput("body", f"cannot be written as JSON: {exc}.") from exc


def _written(value: Any) -> str:
    if isinstance(value, datetime):
        return timestamp(check_time(value, field="time"))
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _header(text: str | None) -> str | None:
    return text if text is None or display_strings.is_plain(text) else display_strings.write(text)


def _key_header(key: str | None) -> dict[str, str]:
    """Write an idempotency key as a string of structured fields (RFC 9651).

    Raises:
        InvalidInput: when it is no fit text.
    """
    if key is None:
        return {}
    check_text(key, field="idempotency_key", chars_max=limits.KEY_CHARS_MAX)
    if not display_strings.is_plain(key):
        return {"Idempotency-Key": display_strings.write(key)}
    return {"Idempotency-Key": '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'}


def _word(lease: Lease) -> str:
    if not isinstance(lease, RemoteLease):
        raise InvalidInput("lease", "was not claimed through a server.")
    return lease.word


def _new_id() -> EventId:
    return new_event_ids(1)[0]
