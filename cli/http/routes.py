"""The operations of the API: each a few lines over `Ledger`, `Runs` and the projections, with no rules of its own."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from cli.documents import (
    consumer_document,
    input_of,
    log_documents,
    run_document,
    state_document,
)
from cli.http import messages as m
from cli.http.auth import Identity
from cli.http.operations import Call, Handler, Operation, Reply
from cli.http.problems import RunIdTaken
from cli.http.tokens import Scope
from ledger.api import Outcome, RunHandle, ShardOutcome
from ledger.consumer import Consumer
from ledger.consumers import Batch
from ledger.errors import (
    InvalidInput,
    RunClosed,
    RunNotFound,
    RunTaken,
    VersionConflict,
)
from ledger.events import RunId
from ledger.interop.cloudevents import cloud_event
from ledger.queue import Heartbeat
from ledger.run.codec import RecordedRunEvent, decode_page
from ledger.run.events import TERMINAL_EVENTS, ShardResultAppended
from ledger.run.leases import Lease, Purpose
from ledger.run.values import JsonObject, Moment, check_uuid
from projections.comparison import Comparison, compare
from projections.projector import PROJECTIONS, lag
from projections.queries import RunFilters
from projections.result_reader import Results
from projections.retention import forget
from projections.timing_reader import Timings
from projections.timings import RunTimings

# --- documents --------------------------------------------------------------------------------------------------


def _changed(call: Call[Any, Any], outcome: Outcome) -> Reply:
    """Answer a command that only one writer can win.

    Raises:
        RunClosed, RunTaken: when another writer was first.
    """
    event = outcome.winner
    if outcome.won:
        version = call.runs.get(outcome.run_id).version if event is None else event.version
        answer = {
            "run_id": outcome.run_id,
            "version": version,
            "event": None if event is None else m.event_answer(event),
        }
        return Reply(answer, version=version)
    if event is None or isinstance(event.data, TERMINAL_EVENTS) or event.type in _TERMINAL:
        raise RunClosed(run_id=outcome.run_id, closed_version=0 if event is None else event.version, winner=event)
    taken = RunTaken(run_id=outcome.run_id, worker=getattr(event.data, "worker", None), taken_version=event.version)
    taken.winner = event
    raise taken


_TERMINAL: Final = frozenset({"completed", "failed", "aborted"})


def _run_id(call: Call[Any, Any]) -> str:
    return call.path["run_id"]


def _shard(call: Call[Any, Any]) -> int:
    text = call.path["shard"]
    if not (text.isascii() and text.isdigit() and len(text) <= 5):
        raise InvalidInput("shard", f"{text!r} is no shard; they are numbered from 0.")
    return int(text)


def labels_of(given: Sequence[str]) -> dict[str, str]:
    """Read labels that are written as `name=value`."""
    labels = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise InvalidInput("label", f"{text!r} is no label: name=value is.")
        labels[name] = value
    return labels


# --- asking for runs --------------------------------------------------------------------------------------------


def enqueue(call: Call[m.Nothing, m.EnqueueBody]) -> Reply:
    body = call.body
    call.identity.require_project(body.project)
    try:
        handle = call.log.enqueue(**_given(body), idempotency_key=call.idempotency_key)
    except VersionConflict as error:
        raise _taken(error) from None
    return _enqueued(call, handle)


def enqueued(call: Call[Any, Any], handle: RunHandle | Exception) -> Reply | Exception:
    """Answer an enqueue that was written together with others."""
    if isinstance(handle, RunHandle):
        return _enqueued(call, handle)
    return _taken(handle) if isinstance(handle, VersionConflict) else handle


def _taken(error: VersionConflict) -> RunIdTaken:
    return RunIdTaken(f"run_id: {error.run_id} is taken. Make another one, or let the server make it.")


def _enqueued(call: Call[Any, Any], handle: RunHandle) -> Reply:
    headers = {"Location": f"/v1/runs/{handle.id}"}
    if not handle.is_new and call.idempotency_key is not None:
        headers["Idempotency-Replayed"] = "true"
    document = {"run_id": handle.id, "is_new": handle.is_new}
    return Reply(document, status=201 if handle.is_new else 200, headers=headers)


def retry(call: Call[m.Nothing, m.RetryBody]) -> Reply:
    body = call.body
    handle = call.log.retry(
        _run_id(call), shard=body.shard, on_active=body.on_active, idempotency_key=call.idempotency_key
    )
    return _enqueued(call, handle)


# --- looking at runs --------------------------------------------------------------------------------------------


def list_runs(call: Call[m.ListQuery, m.Nothing]) -> Reply:
    query = call.query
    page = call.runs.list(limit=query.limit, page_token=query.page_token, **_filters(call.identity, query))
    return Reply({"runs": [run_document(run) for run in page.runs], "next_page_token": page.next_page_token})


def count_runs(call: Call[m.CountQuery, m.Nothing]) -> Reply:
    return Reply({"count": call.runs.count(**_filters(call.identity, call.query))})


def count_by_kind(call: Call[m.Nothing, m.Nothing]) -> Reply:
    counted = call.runs.count_by_kind().items()
    return Reply({"counts": [{"kind": kind, "status": status, "count": count} for (kind, status), count in counted]})


def find_runs(call: Call[m.FindQuery, m.Nothing]) -> Reply:
    query = call.query
    project = call.identity.chosen_project(query.project)
    return Reply({"run_ids": call.runs.find(query.prefix, limit=query.limit, project=project)})


def _filters(identity: Identity, query: m.CountQuery) -> RunFilters:
    return RunFilters(
        project=identity.chosen_project(query.project),
        kind=query.kind,
        status=query.status,
        verdict=query.verdict,
        labels=labels_of(query.label),
        since=query.since,
        before=query.before,
        parent_run_id=query.parent_run_id,
        deleted=query.deleted,
        at=query.at,
    )


def get_run(call: Call[m.RunQuery, m.Nothing]) -> Reply:
    query = call.query
    if query.at is not None and query.at_version is not None:
        raise InvalidInput("at_version", "and `at` both say as of when; give one of them.")
    state = call.runs.get(_run_id(call), at=query.at or query.at_version)
    if call.if_none_match == f'"{state.version}"':
        return Reply(None, status=304, version=state.version)
    document = state_document(state, input=input_of(_first_event(call, state.run_id)))
    return Reply(document, version=state.version)


def _first_event(call: Call[Any, Any], run_id: str) -> RecordedRunEvent:
    page = call.log.store.read_run(RunId(run_id), after_version=0, limit=1)
    if not page.count:
        raise RunNotFound(run_id)
    return decode_page(page.events)[0]


def history(call: Call[m.HistoryQuery, m.Nothing]) -> Reply:
    events, more = _page(call, call.query)
    return Reply(
        {
            "events": [m.event_answer(event) for event in events],
            "next_after": events[-1].version if events else call.query.after,
            "more": more,
        }
    )


def _page(call: Call[Any, Any], query: m.HistoryQuery) -> tuple[list[RecordedRunEvent], bool]:
    run_id = RunId(_run_id(call))
    page = call.log.store.read_run(run_id, after_version=query.after, limit=query.limit)
    if not page.count:
        _first_event(call, run_id)
    return decode_page(page.events), page.more


def results(call: Call[m.HistoryQuery, m.Nothing]) -> Reply:
    events, more = _page(call, call.query)
    batches = [
        {
            "version": event.version,
            "recorded_at": event.envelope.recorded_at,
            "shard": event.data.shard,
            "shard_attempt": event.data.shard_attempt,
            "first_sequence": event.data.first_sequence,
            "results": event.data.results,
        }
        for event in events
        if isinstance(event.data, ShardResultAppended)
    ]
    return Reply({"batches": batches, "next_after": events[-1].version if events else call.query.after, "more": more})


def logs(call: Call[m.HistoryQuery, m.Nothing]) -> Reply:
    events, more = _page(call, call.query)
    lines = [line for event in events for line in log_documents(event)]
    return Reply({"lines": lines, "next_after": events[-1].version if events else call.query.after, "more": more})


# --- what results say -------------------------------------------------------------------------------------------


def counted_results(call: Call[m.CountedQuery, m.Nothing]) -> Reply:
    page = Results(call.log).of_run(_run_id(call), limit=call.query.limit, page_token=call.query.page_token)
    return Reply(page._asdict())


def timings(call: Call[m.Nothing, m.Nothing]) -> Reply:
    return Reply(Timings(call.log).of_run(_run_id(call)))


def compare_runs(call: Call[m.CompareQuery, m.Nothing]) -> Reply:
    newer = RunId(call.query.newer)
    call.identity.require_run(newer, call.log.facts.read(newer).project)
    return Reply(compare(call.log, _run_id(call), newer))


def tests(call: Call[m.TestsQuery, m.Nothing]) -> Reply:
    query = call.query
    ranked = Results(call.log).tests(
        project=call.identity.chosen_project(query.project),
        since=query.since,
        order=query.order,
        limit=query.limit,
        runs=query.runs,
    )
    return Reply({"tests": ranked})


def test_history(call: Call[m.TestHistoryQuery, m.Nothing]) -> Reply:
    query = call.query
    project = call.identity.chosen_project(query.project)
    found = Results(call.log).history(query.test_id, project=project, kind=query.kind, limit=query.limit)
    return Reply({"results": found})


# --- the life of a run ------------------------------------------------------------------------------------------


def release(call: Call[m.Nothing, m.Nothing]) -> Reply:
    return _changed(call, call.log.release(_run_id(call)))


def start(call: Call[m.Nothing, m.WorkerBody]) -> Reply:
    return _changed(call, call.log.start(_run_id(call), worker=call.body.worker, event_id=call.body.event_id))


def enter_phase(call: Call[m.Nothing, m.PhaseBody]) -> Reply:
    return _changed(call, call.log.enter_phase(_run_id(call), call.body.phase))


def resolve_version(call: Call[m.Nothing, m.VersionBody]) -> Reply:
    return _changed(call, call.log.resolve_version(_run_id(call), call.body.resolved_version))


def finish_gate(call: Call[m.Nothing, m.GateBody]) -> Reply:
    body = call.body
    return _changed(
        call,
        call.log.finish_gate(_run_id(call), body.gate, body.outcome, summary=body.summary, log_ref=body.log_ref),
    )


def fail_attempt(call: Call[m.Nothing, m.FailAttemptBody]) -> Reply:
    body = call.body
    return _changed(
        call,
        call.log.fail_attempt(_run_id(call), error=body.error, category=body.category, retry_at=body.retry_at),
    )


def interrupt(call: Call[m.Nothing, m.ReasonBody]) -> Reply:
    return _changed(call, call.log.interrupt(_run_id(call), reason=call.body.reason))


def resume(call: Call[m.Nothing, m.WorkerBody]) -> Reply:
    return _changed(call, call.log.resume(_run_id(call), worker=call.body.worker))


def request_abort(call: Call[m.Nothing, m.RequestAbortBody]) -> Reply:
    return _changed(call, call.log.request_abort(_run_id(call), reason=call.body.reason, deadline=call.body.deadline))


def start_finalization(call: Call[m.Nothing, m.WorkerBody]) -> Reply:
    return _changed(call, call.log.start_finalization(_run_id(call), worker=call.body.worker))


def complete(call: Call[m.Nothing, m.CompleteBody]) -> Reply:
    return _changed(call, call.log.complete(_run_id(call), **_given(call.body)))


def fail(call: Call[m.Nothing, m.FailBody]) -> Reply:
    return _changed(call, call.log.fail(_run_id(call), **_given(call.body)))


def abort(call: Call[m.Nothing, m.AbortBody]) -> Reply:
    return _changed(call, call.log.abort(_run_id(call), **_given(call.body)))


def _given(body: m.Message) -> dict[str, Any]:
    """Give a body's fields as the arguments of the command that has the same names."""
    return {name: getattr(body, name) for name in body.__struct_fields__}


def delete(call: Call[m.Nothing, m.OptionalReasonBody]) -> Reply:
    return _changed(call, call.log.delete(_run_id(call), reason=call.body.reason))


def restore(call: Call[m.Nothing, m.Nothing]) -> Reply:
    return _changed(call, call.log.restore(_run_id(call)))


def purge(call: Call[m.Nothing, m.PurgeBody]) -> Reply:
    outcome = call.log.purge(_run_id(call), reason=call.body.reason, from_bin=call.body.from_bin)
    forget(call.log)
    return _changed(call, outcome)


# --- what commutes ----------------------------------------------------------------------------------------------


def append_results(call: Call[m.Nothing, m.ResultsBody]) -> Reply:
    return Reply({"appended": call.log.append_results(_run_id(call), **_given(call.body))})


def increment_stats(call: Call[m.Nothing, m.StatsBody]) -> Reply:
    return Reply({"moved": call.log.increment_stats(_run_id(call), **_given(call.body))})


def append_log(call: Call[m.Nothing, m.LogBody]) -> Reply:
    return Reply({"appended": call.log.append_log(_run_id(call), **_given(call.body))})


def record_artifact(call: Call[m.Nothing, m.ArtifactBody]) -> Reply:
    return Reply({"event": m.event_answer(call.log.record_artifact(_run_id(call), **_given(call.body)))})


def record_document(call: Call[m.Nothing, m.DocumentBody]) -> Reply:
    body = call.body
    event = call.log.record_document(_run_id(call), body.name, body.document, event_id=body.event_id)
    return Reply({"event": m.event_answer(event)})


def annotate(call: Call[m.Nothing, m.AnnotateBody]) -> Reply:
    return Reply({"event": m.event_answer(call.log.annotate(_run_id(call), **_given(call.body)))})


# --- shards -----------------------------------------------------------------------------------------------------


def complete_shard(call: Call[m.Nothing, m.CompleteShardBody]) -> Reply:
    body = call.body
    return _moved(
        call.log.complete_shard(_run_id(call), _shard(call), shard_attempt=body.shard_attempt, exit_code=body.exit_code)
    )


def count_shard(call: Call[m.Nothing, m.Nothing]) -> Reply:
    return _moved(call.log.increment_shards_completed(_run_id(call)))


def _moved(outcome: ShardOutcome) -> Reply:
    return Reply({"advanced": outcome.advanced, "new_value": outcome.new_value})


def retry_shard(call: Call[m.Nothing, m.OptionalReasonBody]) -> Reply:
    return Reply({"attempt": call.log.retry_shard(_run_id(call), _shard(call), reason=call.body.reason)})


# --- work -------------------------------------------------------------------------------------------------------


class _LeaseText(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What of a lease goes to the worker and comes back with each write."""

    run_id: m.Uuid
    kind: m.Name
    purpose: Purpose
    shard: m.ShardNumber | None
    attempt: int
    token: int
    worker: m.Name
    deadline: Moment


_decode_lease = msgspec.json.Decoder(_LeaseText).decode


def lease_text(lease: Lease) -> str:
    """Write a lease as one word of a header. It is no secret: a lease fences, and a token allows."""
    fields = [getattr(lease, name) for name in _LeaseText.__struct_fields__]
    return urlsafe_b64encode(msgspec.json.encode(fields)).decode().rstrip("=")


def read_lease(text: str) -> Lease:
    """Read what `lease_text` wrote.

    Raises:
        InvalidInput: when it is none.
    """
    try:
        found = _decode_lease(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, msgspec.MsgspecError) as exc:
        raise InvalidInput("lease", "is none that a claim gave; send it as it came.") from exc
    check_uuid(found.run_id, field="lease")
    if (found.purpose is Purpose.SHARD) != (found.shard is not None) or found.token < 1 or found.attempt < 0:
        raise InvalidInput("lease", "is none that a claim gave; send it as it came.")
    return Lease(**msgspec.structs.asdict(found))


def claim(call: Call[m.Nothing, m.ClaimBody]) -> Reply:
    leases = call.log.claim(**_given(call.body))
    return Reply({"leases": [{"lease": lease_text(lease), **_lease_document(lease)} for lease in leases]})


def _lease_document(lease: Lease) -> JsonObject:
    return {name: getattr(lease, name) for name in lease.__struct_fields__}


def heartbeat(call: Call[m.Nothing, m.HeartbeatBody]) -> Reply:
    leases = [read_lease(text) for text in call.body.leases]
    return _heard(call.log.heartbeat(leases, lease_s=call.body.lease_s))


def look(call: Call[m.Nothing, m.LookBody]) -> Reply:
    return _heard(call.log.look([read_lease(text) for text in call.body.leases]))


def _heard(heartbeats: Sequence[Heartbeat]) -> Reply:
    return Reply({"heartbeats": [msgspec.structs.asdict(each) for each in heartbeats]})


def succeed(call: Call[m.Nothing, m.SucceedBody]) -> Reply:
    return _changed(call, call.log.succeed(_held(call), **_given(call.body)))


def give_up(call: Call[m.Nothing, m.GiveUpBody]) -> Reply:
    return _changed(call, call.log.give_up(_held(call), **_given(call.body)))


def hand_back(call: Call[m.Nothing, m.ReasonBody]) -> Reply:
    return _changed(call, call.log.hand_back(_held(call), reason=call.body.reason))


def _held(call: Call[Any, Any]) -> Lease:
    if call.lease is None:
        raise InvalidInput("Runfold-Lease", "is missing; send the `lease` that the claim gave.")
    if call.lease.run_id != _run_id(call):  # what the token may do was decided for the run in the path
        raise InvalidInput("Runfold-Lease", f"is of another run, {call.lease.run_id}; name that one in the path.")
    return call.lease


def sweep(call: Call[m.Nothing, m.SweepBody]) -> Reply:
    return Reply({"swept": [msgspec.structs.asdict(each) for each in call.log.sweep(limit=call.body.limit)]})


def tasks(call: Call[m.TasksQuery, m.Nothing]) -> Reply:
    query, after = call.query, None
    if query.after is not None:
        run_id, _, shard = query.after.partition("/")
        after = check_uuid(run_id, field="after"), int(shard)
    found = call.log.tasks(run_id=query.run_id, kinds=query.kind or None, after=after, limit=query.limit)
    last = found[-1] if len(found) == query.limit else None
    return Reply(
        {
            "tasks": [msgspec.structs.asdict(task) for task in found],
            "next_after": None if last is None else f"{last.run_id}/{-1 if last.shard is None else last.shard}",
        }
    )


# --- consumers --------------------------------------------------------------------------------------------------


def create_consumer(call: Call[m.Nothing, m.ConsumerBody]) -> Reply:
    body, projects = call.body, call.body.projects
    if projects is None and call.identity.projects is not None:
        projects = sorted(call.identity.projects)
    for project in projects or ():
        call.identity.require_project(project)
    consumer = call.log.consumer(
        body.name,
        types=body.types,
        kind=body.kind,
        projects=projects,
        labels=body.labels,
        partitions=body.partitions,
        after=None if body.from_now else body.after,
    )
    return Reply(consumer_document(consumer.status()))


def consumer_of(call: Call[Any, Any]) -> Consumer:
    """Give the consumer that a call is about, if the caller may know of it."""
    consumer = call.log.find_consumer(call.path["consumer"])
    call.identity.require_consumer(consumer.name, consumer.settings.wanted.projects)
    return consumer


def list_consumers(call: Call[m.Nothing, m.Nothing]) -> Reply:
    return Reply({"consumers": [consumer_document(each.status()) for each in call.log.consumers()]})


def get_consumer(call: Call[m.Nothing, m.Nothing]) -> Reply:
    return Reply(consumer_document(consumer_of(call).status()))


def fetched(batch: Batch | None, projects: Sequence[str | None]) -> Reply:
    """Answer a fetch.

    Args:
        batch: What was lent.
        projects: Of each of its events.
    """
    if batch is None:
        return Reply({"batch": None, "events": []})
    events = [cloud_event(event, project=project) for event, project in zip(batch.events, projects, strict=True)]
    names = m.BatchAnswer.__struct_fields__
    return Reply({"batch": {name: getattr(batch, name) for name in names}, "events": events})


def acknowledge(call: Call[m.Nothing, m.BatchBody]) -> Reply:
    return Reply({"moved": consumer_of(call).acknowledge(_batch(call))})


def extend(call: Call[m.Nothing, m.ExtendBody]) -> Reply:
    consumer_of(call).extend(_batch(call), lease_s=call.body.lease_s)
    return Reply({"consumer": call.path["consumer"]})


def hand_back_batch(call: Call[m.Nothing, m.BatchBody]) -> Reply:
    consumer_of(call).hand_back(_batch(call))
    return Reply({"consumer": call.path["consumer"]})


def _batch(call: Call[Any, Any]) -> Batch:
    body = call.body
    return Batch(call.path["consumer"], body.partition, body.token, 0, body.up_to)


def reset_consumer(call: Call[m.Nothing, m.ResetBody]) -> Reply:
    consumer_of(call).reset(after=None if call.body.from_now else call.body.after)
    return Reply({"consumer": call.path["consumer"]})


def remove_consumer(call: Call[m.Nothing, m.Nothing]) -> Reply:
    consumer_of(call).remove()
    return Reply({"consumer": call.path["consumer"]})


# --- the log and the tables -------------------------------------------------------------------------------------


def projections(call: Call[m.Nothing, m.Nothing]) -> Reply:
    return Reply({"projections": [lag(call.log, name)._asdict() for name in PROJECTIONS]})


def elsewhere(call: Call[Any, Any]) -> Reply:
    """Stands for what the app itself answers: streams, health, metrics and the OpenAPI document."""
    raise AssertionError(f"the app answers this, not a route: {call.path}")


# --- the table --------------------------------------------------------------------------------------------------

_READ, _WRITE, _EVENTS, _ADMIN = Scope.RUNS_READ, Scope.RUNS_WRITE, Scope.EVENTS_READ, Scope.ADMIN


def _command(name: str, summary: str, run: Handler, body: type[m.Message] = m.Nothing, **more: Any) -> Operation:
    """Give the operation of a command that only one writer can win."""
    word = name.replace("_", "-")
    facts: dict[str, Any] = {
        "scope": _WRITE,
        "answer": m.ChangedAnswer,
        "takes_version": True,
        "takes_lease": True,
        **more,
    }
    return Operation(
        name=name, method="POST", path=f"/v1/runs/{{run_id}}:{word}", summary=summary, run=run, body=body, **facts
    )


def _append(name: str, part: str, summary: str, run: Handler, body: type[m.Message], answer: m.Answer) -> Operation:
    return Operation(
        name=name,
        method="POST",
        path=f"/v1/runs/{{run_id}}/{part}",
        summary=summary,
        scope=_WRITE,
        run=run,
        body=body,
        answer=answer,
        takes_lease=True,
    )


def _of_consumer(
    word: str, summary: str, run: Handler, body: type[m.Message] = m.Nothing, answer: m.Answer = m.DoneAnswer
) -> Operation:
    return Operation(
        name=f"{word.replace('-', '_')}_consumer",
        method="POST",
        path=f"/v1/consumers/{{consumer}}:{word}",
        summary=summary,
        scope=_EVENTS,
        run=run,
        body=body,
        answer=answer,
    )


def _read(name: str, path: str, summary: str, run: Handler, **more: Any) -> Operation:
    return Operation(name=name, method="GET", path=path, summary=summary, run=run, **{"scope": _READ, **more})


def _operations() -> Iterable[Operation]:
    yield Operation(
        name="enqueue",
        method="POST",
        path="/v1/runs",
        summary="Ask for a run; 200 when a key led to one that was there already",
        scope=_WRITE,
        run=enqueue,
        body=m.EnqueueBody,
        answer=m.EnqueuedAnswer,
        statuses=(201, 200),
        takes_key=True,
    )
    yield _read("get_run", "/v1/runs/{run_id}", "One run, now or as it was", get_run,
        query=m.RunQuery, answer=m.DetailAnswer, statuses=(200, 304))  # fmt: skip
    yield _read("list_runs", "/v1/runs", "Runs, newest first", list_runs, query=m.ListQuery, answer=m.RunsAnswer)
    yield _read("count_runs", "/v1/runs:count", "How many runs", count_runs, query=m.CountQuery, answer=m.CountAnswer)
    yield _read("count_by_kind", "/v1/runs:count-by-kind", "How many runs of each kind and status", count_by_kind,
        answer=m.KindCountsAnswer, needs_every_project=True)  # fmt: skip
    yield _read("find_runs", "/v1/runs:find", "Run ids by how they begin", find_runs,
        query=m.FindQuery, answer=m.FoundAnswer)  # fmt: skip
    yield _read("history", "/v1/runs/{run_id}/events", "The events of a run", history,
        query=m.HistoryQuery, answer=m.EventsAnswer)  # fmt: skip
    yield _read("results", "/v1/runs/{run_id}/results", "The results of a run, as they were appended", results,
        query=m.HistoryQuery, answer=m.ResultsAnswer)  # fmt: skip
    yield _read("counted_results", "/v1/runs/{run_id}/results:counted", "The results of a run that count",
        counted_results, query=m.CountedQuery, answer=m.CountedAnswer)  # fmt: skip
    yield _read("timings", "/v1/runs/{run_id}/timings", "How long attempts, phases and shards took", timings,
        answer=RunTimings)  # fmt: skip
    yield _read("compare", "/v1/runs/{run_id}:compare", "What became of each test from this run to a newer one",
        compare_runs, query=m.CompareQuery, answer=Comparison)  # fmt: skip
    yield _read("tests", "/v1/tests", "The tests of a project: flaky, slow or failing", tests,
        query=m.TestsQuery, answer=m.TestsAnswer)  # fmt: skip
    yield _read("test_history", "/v1/tests:history", "The newest results of a test", test_history,
        query=m.TestHistoryQuery, answer=m.TestHistoryAnswer)  # fmt: skip
    yield _read("logs", "/v1/runs/{run_id}/logs", "The output of a run", logs,
        query=m.HistoryQuery, answer=m.LogAnswer)  # fmt: skip
    yield _read("follow_run", "/v1/runs/{run_id}/stream", "The events of a run as they come, until it ends", elsewhere,
        query=m.RunStreamQuery, statuses=(200, 204), is_stream=True, media_type="text/event-stream")  # fmt: skip

    yield Operation(
        name="retry",
        method="POST",
        path="/v1/runs/{run_id}:retry",
        summary="Ask for a finished run again, as a new run",
        scope=_WRITE,
        run=retry,
        body=m.RetryBody,
        answer=m.EnqueuedAnswer,
        statuses=(201, 200),
        takes_key=True,
    )
    yield _command("release", "Let a scheduled run be picked up now", release)
    yield _command("start", "Begin an attempt; one worker wins", start, m.WorkerBody)
    yield _command("enter_phase", "Enter a phase", enter_phase, m.PhaseBody)
    yield _command("resolve_version", "Record the version of what is built or tested", resolve_version, m.VersionBody)
    yield _command("finish_gate", "Record the outcome of a gate", finish_gate, m.GateBody)
    yield _command("fail_attempt", "End the attempt; the run is tried again", fail_attempt, m.FailAttemptBody)
    yield _command("interrupt", "Note that nobody works on the run", interrupt, m.ReasonBody)
    yield _command("resume", "Take an interrupted run up again; one worker wins", resume, m.WorkerBody)
    yield _command("request_abort", "Ask the workers to stop", request_abort, m.RequestAbortBody)
    yield _command("start_finalization", "Finalize the run", start_finalization, m.WorkerBody)
    yield _command("complete", "Finish the run; the first terminal event wins", complete, m.CompleteBody)
    yield _command("fail", "Fail the run; the first terminal event wins", fail, m.FailBody)
    yield _command("abort", "End the run on purpose; the first terminal event wins", abort, m.AbortBody)
    yield _command("delete", "Put a finished run into the bin", delete, m.OptionalReasonBody)
    yield _command("restore", "Take a run out of the bin", restore)
    yield _command("purge", "Erase the data of a finished run for good", purge, m.PurgeBody,
        scope=_ADMIN, takes_version=False, takes_lease=False)  # fmt: skip

    yield _append("append_results", "results", "Append results", append_results, m.ResultsBody, m.AppendedAnswer)
    yield _append(
        "increment_stats", "stats", "Move the anonymous counters", increment_stats, m.StatsBody, m.MovedAnswer
    )
    yield _append("append_log", "logs", "Append lines of output", append_log, m.LogBody, m.AppendedAnswer)
    yield _append("record_artifact", "artifacts", "Record where something is kept", record_artifact,
        m.ArtifactBody, m.WrittenAnswer)  # fmt: skip
    yield _append("record_document", "documents", "Carry a document beside the run", record_document,
        m.DocumentBody, m.WrittenAnswer)  # fmt: skip
    yield _append("annotate", "notes", "Add a note, or set labels", annotate, m.AnnotateBody, m.WrittenAnswer)
    yield _append("complete_shard", "shards/{shard}:complete", "Complete a shard; twice changes nothing",
        complete_shard, m.CompleteShardBody, m.ShardMovedAnswer)  # fmt: skip
    yield _append("retry_shard", "shards/{shard}:retry", "Begin a newer attempt of a shard", retry_shard,
        m.OptionalReasonBody, m.ShardRetriedAnswer)  # fmt: skip
    yield _append("count_shard", "shards:count", "Move the anonymous counter of completed shards", count_shard,
        m.Nothing, m.ShardMovedAnswer)  # fmt: skip

    yield Operation(
        name="claim", method="POST", path="/v1/runs:claim", summary="Take what may be done now", scope=_WRITE,
        run=claim, body=m.ClaimBody, answer=m.LeasesAnswer, needs_every_project=True,
    )  # fmt: skip
    yield Operation(
        name="heartbeat", method="POST", path="/v1/runs:heartbeat", summary="Keep leases", scope=_WRITE,
        run=heartbeat, body=m.HeartbeatBody, answer=m.HeartbeatsAnswer, needs_every_project=True,
    )  # fmt: skip
    yield Operation(
        name="look", method="POST", path="/v1/runs:look", scope=_WRITE, run=look,
        summary="Hear whether leased work is still held and wanted; writes nothing",
        body=m.LookBody, answer=m.HeartbeatsAnswer, needs_every_project=True,
    )  # fmt: skip
    yield _command("succeed", "Report leased work done", succeed, m.SucceedBody,
        takes_version=False, needs_lease=True)  # fmt: skip
    yield _command("give_up", "Report that leased work failed: it is tried again, or fails for good", give_up,
        m.GiveUpBody, takes_version=False, needs_lease=True)  # fmt: skip
    yield _command("hand_back", "Give leased work back undone", hand_back, m.ReasonBody,
        takes_version=False, needs_lease=True)  # fmt: skip
    yield Operation(
        name="sweep", method="POST", path="/v1/runs:sweep", summary="Settle leases whose deadline passed", scope=_ADMIN,
        run=sweep, body=m.SweepBody, answer=m.SweptAnswer, needs_every_project=True,
    )  # fmt: skip
    yield _read("tasks", "/v1/tasks", "What is left to do, and who holds it", tasks,
        query=m.TasksQuery, answer=m.TasksAnswer, needs_every_project=True)  # fmt: skip

    yield _read("events", "/v1/events", "The log in order", elsewhere,
        scope=_EVENTS, query=m.EventsQuery, answer=m.EventsAnswer)  # fmt: skip
    yield _read("follow_events", "/v1/events/stream", "The log as it grows", elsewhere, scope=_EVENTS,
        query=m.StreamQuery, is_stream=True, media_type="text/event-stream")  # fmt: skip
    yield Operation(
        name="create_consumer", method="POST", path="/v1/consumers", scope=_EVENTS, run=create_consumer,
        summary="Make a named consumer of the log, or find it as it was made",
        body=m.ConsumerBody, answer=m.ConsumerAnswer,
    )  # fmt: skip
    yield _read("list_consumers", "/v1/consumers", "All consumers, and how far they have come", list_consumers,
        scope=_EVENTS, answer=m.ConsumersAnswer, needs_every_project=True)  # fmt: skip
    yield _read("get_consumer", "/v1/consumers/{consumer}", "One consumer, and how far it has come", get_consumer,
        scope=_EVENTS, answer=m.ConsumerAnswer)  # fmt: skip
    yield _of_consumer("fetch", "Take the next batch of events", elsewhere, m.FetchBody, m.FetchedAnswer)
    yield _of_consumer("acknowledge", "Say that a batch is done; twice changes nothing", acknowledge,
        m.BatchBody, m.AcknowledgedAnswer)  # fmt: skip
    yield _of_consumer("extend", "Keep a batch for longer", extend, m.ExtendBody)
    yield _of_consumer("hand-back", "Give a batch back undone", hand_back_batch, m.BatchBody)
    yield _of_consumer("reset", "Go on after another position", reset_consumer, m.ResetBody)
    yield _of_consumer("remove", "Forget a consumer", remove_consumer)
    yield _read("projections", "/v1/projections", "How far the tables are behind the log", projections,
        answer=m.LagAnswer, needs_every_project=True)  # fmt: skip
    yield _read("metrics", "/metrics", "Figures for Prometheus", elsewhere,
        needs_every_project=True, media_type="text/plain; version=0.0.4")  # fmt: skip
    yield _read("healthz", "/healthz", "Whether the process answers", elsewhere, scope=None, answer=m.HealthAnswer)
    yield _read("readyz", "/readyz", "Whether the ledger can be read", elsewhere, scope=None,
        answer=m.HealthAnswer, statuses=(200, 503))  # fmt: skip
    yield _read("openapi", "/openapi.json", "This API", elsewhere, scope=None)


OPERATIONS: Final = tuple(_operations())
