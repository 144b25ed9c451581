"""Bad input gets one error that says what, why and what next: the same on every store, before anything is written."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from builders import LATER, NOON, RUN, UNKNOWN_RUN, a_run_id, an_event_id, enqueued, started

import ledger
from ledger import Kind, Ledger, exactly, limits, unless_closed
from ledger.errors import IllegalTransition, InvalidInput, RunNotFound, SecretInInput
from ledger.ids import new_run_id
from ledger.run.events import Aborted, Annotated, Completed, LogAppended, ShardResultAppended, Started, StatsIncremented
from ledger.store import Condition, Rule

NAIVE = datetime(2026, 3, 1)  # noqa: DTZ001 - a moment without a time zone is the point
SURROGATE = "broken \ud800 text"
NUL = "broken \0 text"
TOKEN = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
FINISHED = a_run_id(2)
SCHEDULED = a_run_id(3)

Act = Callable[[Ledger], object]


@pytest.fixture(scope="module")
def logs(
    postgres_server: Any, postgres_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Ledger]]:
    """One ledger on each store, with the same runs; bad input leaves them as they are, so tests share them."""
    postgres = postgres_server.create_database(template=postgres_template)
    urls = ["memory:", f"sqlite:///{tmp_path_factory.mktemp('bad') / 'runs.db'}", postgres]
    with ExitStack() as stack:
        opened = [
            stack.enter_context(
                ledger.open(url, migrate=True, clock=lambda: NOON, kinds=[Kind(name="build", phases=("a", "b"))])
            )
            for url in urls
        ]
        for log in opened:
            log.enqueue("build", run_id=RUN, shard_count=2)
            log.start(RUN, worker="w1")
            log.enqueue("test", run_id=FINISHED)
            log.start(FINISHED, worker="w1")
            log.complete(FINISHED)
            log.enqueue("test", run_id=SCHEDULED, not_before=LATER)
        yield opened
    postgres_server.drop_database(postgres)


def refusals(logs: Sequence[Ledger], act: Act) -> list[tuple[type[Exception], str]]:
    """Do what is refused on every store: give the errors, and see that nothing was written."""
    answers = []
    for log in logs:
        before = [event.event_id for event in log.read_all()]
        with pytest.raises(ledger.LedgerError) as refusal:
            act(log)
        answers.append((type(refusal.value), str(refusal.value)))
        assert before == [event.event_id for event in log.read_all()]
    return answers


def the_refusal(logs: Sequence[Ledger], act: Act) -> tuple[type[Exception], str]:
    """Give the one error that every store answers with."""
    answers = refusals(logs, act)
    assert [answers[0]] * len(logs) == answers
    return answers[0]


def nested(levels: int) -> dict[str, Any]:
    """Give an object of so many levels."""
    value: Any = {}
    for _ in range(levels - 2):
        value = [value]
    return {"deep": value}


def input_of_bytes(size: int) -> dict[str, str]:
    return {"text": "x" * (size - len('{"text":""}'))}


# --- values -----------------------------------------------------------------------------------------------------

BAD_VALUES: dict[str, tuple[Any, str]] = {
    "nan": (math.nan, "is nan, which JSON does not have; send null or text."),
    "infinity": (math.inf, "is inf, which JSON does not have; send null or text."),
    "minus infinity": (-math.inf, "is -inf, which JSON does not have; send null or text."),
    "2^53": (2**53, "is an integer past 2^53, which other readers round; send it as text."),
    "-2^53": (-(2**53), "is an integer past 2^53, which other readers round; send it as text."),
    "2^63": (2**63, "is an integer past 2^53, which other readers round; send it as text."),
    "10^400": (10**400, "is an integer past 2^53, which other readers round; send it as text."),
    "nul": (NUL, "holds the character NUL, which PostgreSQL cannot store."),
    "lone surrogate": (SURROGATE, "holds a lone surrogate at character 7, which is no text."),
    "bytes": (b"x", "is bytes, which JSON does not have."),
    "datetime": (NOON, "is datetime, which JSON does not have."),
    "set": ({1}, "is set, which JSON does not have."),
    "tuple": ((1,), "is tuple, which JSON does not have."),
    "object": (object(), "is object, which JSON does not have."),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_input_when_a_value_cannot_be_stored(name: str, logs: list[Ledger]) -> None:
    """The error names the path of the value, and why it cannot be stored."""
    value, why = BAD_VALUES[name]

    refusal = the_refusal(logs, lambda log: log.enqueue("test", input={"steps": [{"a": 1}, {"b": value}]}))

    next_step = "Nothing was written; correct the value and send it again."
    assert (InvalidInput, f"input.steps[1].b: {why} {next_step}") == refusal


@pytest.mark.parametrize("name", BAD_VALUES)
def test_result_when_a_value_cannot_be_stored(name: str, logs: list[Ledger]) -> None:
    """One bad value refuses the whole batch: its good neighbours are not written either."""
    value, why = BAD_VALUES[name]
    batch = [{"status": "passed"}, {"status": "passed", "extra": {"n": value}}]

    kind, message = the_refusal(logs, lambda log: log.append_results(RUN, batch))

    assert (InvalidInput, True) == (kind, message.startswith(f"results[1].extra.n: {why}"))


@pytest.mark.parametrize("name", BAD_VALUES)
def test_event_when_a_value_cannot_be_stored(name: str, logs: list[Ledger]) -> None:
    """The low-level append is no way around."""
    batch: list[Any] = [{"status": "passed"}, {"status": "failed", "n": BAD_VALUES[name][0]}]

    by_results = the_refusal(logs, lambda log: log.append(RUN, [started(), ShardResultAppended(results=batch)]))
    by_input = the_refusal(logs, lambda log: log.append(RUN, [enqueued(input={"n": BAD_VALUES[name][0]})]))
    by_skipped = the_refusal(logs, lambda log: log.append(RUN, [Aborted(finished_at=NOON, skipped=batch)]))

    assert [InvalidInput] * 3 == [by_results[0], by_input[0], by_skipped[0]]


@pytest.mark.parametrize("key", [NUL, SURROGATE, 7, None, b"x", 1.5, True, ("a",)])
@pytest.mark.parametrize("where", ["input", "result"])
def test_key_when_it_is_no_text(where: str, key: Any, logs: list[Ledger]) -> None:
    """Keys are texts that can be stored."""
    value: dict[Any, Any] = {"status": "passed", "inner": {key: 1}}
    act: Act = (
        (lambda log: log.enqueue("test", input=value))
        if where == "input"
        else (lambda log: log.append_results(RUN, [value]))
    )

    kind, message = the_refusal(logs, act)

    assert (InvalidInput, True) == (kind, ".inner" in message)


@pytest.mark.parametrize("value", [None, "text", 1, [], object()], ids=lambda value: type(value).__name__)
def test_results_when_one_is_no_object(value: Any, logs: list[Ledger]) -> None:
    """A result is an object."""
    kind, message = the_refusal(logs, lambda log: log.append_results(RUN, [{"status": "passed"}, value]))

    assert (InvalidInput, True) == (kind, message.startswith("results[1]: is "))


@pytest.mark.parametrize("status", [None, "", 1, True, ["passed"], {}, "x" * 33, NUL, SURROGATE])
def test_result_when_its_status_is_no_word(status: Any, logs: list[Ledger]) -> None:
    """A result has a status, a short text."""
    kind, message = the_refusal(logs, lambda log: log.append_results(RUN, [{"status": status}]))

    assert (InvalidInput, True) == (kind, message.startswith("results[0].status: "))


# --- limits, at n and n + 1 ---------------------------------------------------------------------------------------

AT_LIMIT: dict[str, tuple[int, Callable[[Ledger, int], object], str]] = {
    "kind": (limits.NAME_CHARS_MAX, lambda log, n: log.enqueue("k" * n), "kind"),
    "project": (limits.NAME_CHARS_MAX, lambda log, n: log.enqueue("t", project="p" * n), "project"),
    "worker": (limits.NAME_CHARS_MAX, lambda log, n: log.start(new_run(log), worker="w" * n), "worker"),
    "actor": (limits.NAME_CHARS_MAX, lambda log, n: log.bind(actor="a" * n).enqueue("t"), "actor"),
    "phase": (limits.NAME_CHARS_MAX, lambda log, n: log.enter_phase(running(log), "p" * n), "phase"),
    "version": (limits.NAME_CHARS_MAX, lambda log, n: log.resolve_version(running(log), "v" * n), "version"),
    "gate": (limits.NAME_CHARS_MAX, lambda log, n: log.finish_gate(running(log), "g" * n, "passed"), "gate"),
    "category": (limits.NAME_CHARS_MAX, lambda log, n: log.fail(running(log), error="e", category="c" * n), "category"),
    "mode": (limits.NAME_CHARS_MAX, lambda log, n: log.abort(running(log), mode="m" * n), "mode"),
    "source": (limits.NAME_CHARS_MAX, lambda log, n: log.append_log(RUN, ["l"], source="s" * n), "source"),
    "level": (limits.NAME_CHARS_MAX, lambda log, n: log.append_log(RUN, ["l"], level="s" * n), "level"),
    "artifact name": (limits.NAME_CHARS_MAX, lambda log, n: log.record_artifact(RUN, "n" * n, "u:"), "name"),
    "media type": (
        limits.NAME_CHARS_MAX,
        lambda log, n: log.record_artifact(RUN, "n", "u:", media_type="m" * n),
        "media_type",
    ),
    "document name": (limits.NAME_CHARS_MAX, lambda log, n: log.record_document(RUN, "n" * n, {}), "name"),
    "document": (
        limits.DOCUMENT_BYTES_MAX - 2,
        lambda log, n: log.record_document(RUN, "n", "d" * n),
        "document",
    ),
    "artifact uri": (limits.TEXT_CHARS_MAX, lambda log, n: log.record_artifact(RUN, "n", "u" * n), "uri"),
    "note": (limits.TEXT_CHARS_MAX, lambda log, n: log.annotate(RUN, note="n" * n), "note"),
    "reason": (limits.TEXT_CHARS_MAX, lambda log, n: log.abort(running(log), reason="r" * n), "reason"),
    "output_ref": (limits.TEXT_CHARS_MAX, lambda log, n: log.complete(running(log), output_ref="o" * n), "output_ref"),
    "gate summary": (
        limits.TEXT_CHARS_MAX,
        lambda log, n: log.finish_gate(running(log), "g", "passed", summary="s" * n),
        "summary",
    ),
    "idempotency key": (
        limits.KEY_CHARS_MAX,
        lambda log, n: log.enqueue("t", idempotency_key="k" * n),
        "idempotency_key",
    ),
    "exclusive key": (limits.KEY_CHARS_MAX, lambda log, n: log.enqueue("t", exclusive_key="x" * n), "exclusive_key"),
    "correlation id": (
        limits.KEY_CHARS_MAX,
        lambda log, n: log.bind(correlation_id="c" * n).enqueue("t"),
        "correlation_id",
    ),
    "causation id": (limits.KEY_CHARS_MAX, lambda log, n: log.bind(causation_id="c" * n).enqueue("t"), "causation_id"),
    "label name": (limits.KEY_CHARS_MAX, lambda log, n: log.enqueue("t", labels={"n" * n: "v"}), "labels name"),
    "label value": (limits.KEY_CHARS_MAX, lambda log, n: log.enqueue("t", labels={"n": "v" * n}), "labels.n"),
    "labels": (
        limits.LABELS_MAX,
        lambda log, n: log.enqueue("t", labels={f"n{number}": "" for number in range(n)}),
        "labels",
    ),
    "annotated labels": (
        limits.LABELS_MAX,
        lambda log, n: log.annotate(RUN, labels={f"n{number}": None if number % 2 else "v" for number in range(n)}),
        "labels",
    ),
    "shard count": (limits.SHARDS_MAX, lambda log, n: log.enqueue("t", shard_count=n), "shard_count"),
    "attempts": (limits.ATTEMPTS_MAX, lambda log, n: log.enqueue("t", attempts_max=n), "attempts_max"),
    "priority": (limits.PRIORITY_MAX, lambda log, n: log.enqueue("t", priority=n), "priority"),
    "low priority": (limits.PRIORITY_MAX, lambda log, n: log.enqueue("t", priority=-n), "priority"),
    "total": (limits.INTEGER_MAX, lambda log, n: log.enqueue("t", total=n), "total"),
    "delta": (limits.INTEGER_MAX, lambda log, n: log.increment_stats(RUN, passed=n), "passed"),
    "negative delta": (limits.INTEGER_MAX, lambda log, n: log.increment_stats(RUN, failed=-n), "failed"),
    "integer": (limits.INTEGER_MAX, lambda log, n: log.enqueue("t", input={"n": n}), "input.n"),
    "negative integer": (limits.INTEGER_MAX, lambda log, n: log.enqueue("t", input={"n": -n}), "input.n"),
    "size_bytes": (
        limits.INTEGER_MAX,
        lambda log, n: log.record_artifact(RUN, "n", "u:", size_bytes=n),
        "size_bytes",
    ),
    "duration": (limits.INTEGER_MAX, lambda log, n: log.complete(running(log), duration_ms=n), "duration_ms"),
    "exit code": (
        limits.INTEGER_MAX,
        lambda log, n: log.complete_shard(running(log), 0, exit_code=-n),
        "exit_code",
    ),
    "sequence": (
        limits.INTEGER_MAX,
        lambda log, n: log.append_results(running(log), [{"status": "passed"}], first_sequence=n),
        "first_sequence",
    ),
    "last sequence": (
        limits.INTEGER_MAX - 1_500,
        lambda log, n: log.append_results(running(log), [{"status": "passed"}] * 1_501, first_sequence=n),
        "first_sequence",
    ),
    "shard attempt": (
        limits.ATTEMPTS_MAX,
        lambda log, n: log.append_results(running(log), [{"status": "passed"}], shard=0, shard_attempt=n),
        "shard_attempt",
    ),
    "depth": (
        limits.DEPTH_MAX,
        lambda log, n: log.enqueue("t", input=nested(n)),
        "input.deep" + "[0]" * (limits.DEPTH_MAX - 1),
    ),
    "depth of a result": (
        limits.DEPTH_MAX,
        lambda log, n: log.append_results(RUN, [{"status": "passed", **nested(n)}]),
        "results[0].deep" + "[0]" * (limits.DEPTH_MAX - 1),
    ),
    "values": (limits.NODES_MAX, lambda log, n: log.enqueue("t", input={"n": [0] * (n - 1)}), "input.n"),
    "bytes of an input": (limits.INPUT_BYTES_MAX, lambda log, n: log.enqueue("t", input=input_of_bytes(n)), "input"),
    "bytes of a payload": (
        limits.PAYLOAD_BYTES_MAX,
        lambda log, n: log.append_results(RUN, [{"status": "passed", "text": "x" * (n - PAYLOAD_AROUND)}]),
        "shard_result_appended",
    ),
    "status of a result": (
        limits.RESULT_STATUS_CHARS_MAX,
        lambda log, n: log.append_results(RUN, [{"status": "s" * n}]),
        "results[0].status",
    ),
    "events": (
        limits.EVENTS_PER_APPEND_MAX,
        lambda log, n: log.append(RUN, [Annotated(note="n")] * n),
        "events",
    ),
    "page size": (limits.PAGE_EVENTS_MAX, lambda log, n: next(log.read_all(page_size=n)), "page_size"),
    "phases": (limits.PHASES_MAX, lambda log, n: enqueue_kind(log, phases=("p",) * n), "phases"),
    "phase of a kind": (limits.NAME_CHARS_MAX, lambda log, n: enqueue_kind(log, phases=("p" * n,)), "phases[0]"),
    "attempts of a kind": (limits.ATTEMPTS_MAX, lambda log, n: enqueue_kind(log, attempts_max=n), "attempts_max"),
    "kind of an event": (limits.NAME_CHARS_MAX, lambda log, n: append_enqueued(log, kind="k" * n), "kind"),
    "project of an event": (limits.NAME_CHARS_MAX, lambda log, n: append_enqueued(log, project="p" * n), "project"),
    "label of an event": (limits.KEY_CHARS_MAX, lambda log, n: append_enqueued(log, labels={"n": "v" * n}), "labels.n"),
    "shard count of an event": (limits.SHARDS_MAX, lambda log, n: append_enqueued(log, shard_count=n), "shard_count"),
    "phases of an event": (limits.PHASES_MAX, lambda log, n: append_enqueued(log, phases=["p"] * n), "phases"),
    "bytes of an event's input": (
        limits.INPUT_BYTES_MAX,
        lambda log, n: append_enqueued(log, input=input_of_bytes(n)),
        "input",
    ),
    "annotated label of an event": (
        limits.KEY_CHARS_MAX,
        lambda log, n: log.append(RUN, [Annotated(labels={"n" * n: None})]),
        "labels name",
    ),
    "fence": (
        limits.KEY_CHARS_MAX,
        lambda log, n: log.append(RUN, [Annotated(note="n")], when=unless_closed("f" * n, 1)),
        "when.fence",
    ),
}
PAYLOAD_AROUND = len('{"results":[{"status":"passed","text":""}],"type":"shard_result_appended"}')


def enqueue_kind(log: Ledger, **declared: Any) -> object:
    return Ledger(log.store, kinds=[Kind(name="made", **declared)], clock=lambda: NOON).enqueue("made")


def append_enqueued(log: Ledger, **facts: Any) -> object:
    return log.append(new_run_id(), [enqueued(**facts)])


def new_run(log: Ledger) -> str:
    return log.enqueue("t", attempts_max=2).id


def running(log: Ledger) -> str:
    run_id = new_run(log)
    log.start(run_id, worker="w1")
    return run_id


@pytest.fixture(scope="module")
def memory() -> Iterator[Ledger]:
    with ledger.open("memory:", clock=lambda: NOON) as log:
        log.enqueue("test", run_id=RUN, shard_count=2)
        log.start(RUN, worker="w1")
        yield log


@pytest.mark.parametrize("name", AT_LIMIT)
def test_value_at_its_limit(name: str, memory: Ledger) -> None:
    """What is just within its limit is stored and read back."""
    most, act, _ = AT_LIMIT[name]
    before = sum(1 for _ in memory.read_all())

    act(memory, most)

    after = sum(1 for _ in memory.read_all())
    assert (before < after) == (name != "page size")


@pytest.mark.parametrize("name", AT_LIMIT)
def test_value_past_its_limit(name: str, memory: Ledger) -> None:
    """What is just past its limit is refused, with the name of the value."""
    most, act, field = AT_LIMIT[name]
    before = {event.type for event in memory.read_all()}, sum(1 for _ in memory.read_all())

    with pytest.raises(InvalidInput) as refusal:
        act(memory, most + 1)

    added = [event.type for event in memory.read_all()][before[1] :]
    assert field == refusal.value.field
    assert set(added) <= {"enqueued", "started"}  # what the act needed before it
    assert str(refusal.value).endswith("Nothing was written; correct the value and send it again.")


SHARED = [
    "kind",
    "artifact uri",
    "labels",
    "shard count",
    "total",
    "depth",
    "values",
    "bytes of an input",
    "bytes of a payload",
    "events",
    "page size",
]


@pytest.mark.parametrize("name", SHARED)
def test_value_past_its_limit_on_every_store(name: str, logs: list[Ledger]) -> None:
    """Limits are looked at before the store, so every store refuses alike."""
    most, act, field = AT_LIMIT[name]

    kind, message = the_refusal(logs, lambda log: act(log, most + 1))

    assert (InvalidInput, True) == (kind, message.startswith(f"{field}: "))


@pytest.mark.parametrize(
    ("act", "field"),
    [
        (lambda log: log.enqueue("t", shard_count=0), "shard_count"),
        (lambda log: log.enqueue("t", attempts_max=0), "attempts_max"),
        (lambda log: log.enqueue("t", total=-1), "total"),
        (lambda log: log.complete_shard(RUN, -1), "shard"),
        (lambda log: log.complete_shard(RUN, 2), "shard"),
        (lambda log: log.retry_shard(RUN, 2), "shard"),
        (lambda log: log.append_results(RUN, [{"status": "passed"}], shard=2), "shard"),
        (lambda log: log.append_results(RUN, [{"status": "passed"}], shard=-1), "shard"),
        (lambda log: log.append_results(RUN, [{"status": "passed"}], shard=0, shard_attempt=0), "shard_attempt"),
        (lambda log: log.append_results(RUN, [{"status": "passed"}], first_sequence=-1), "first_sequence"),
        (lambda log: log.append_log(RUN, ["l"], shard=2), "shard"),
        (lambda log: log.record_artifact(RUN, "n", "u:", shard=2), "shard"),
        (lambda log: log.record_artifact(RUN, "n", "u:", size_bytes=-1), "size_bytes"),
        (lambda log: log.complete(RUN, duration_ms=-1), "duration_ms"),
        (lambda log: log.append(RUN, []), "events"),
        (lambda log: log.append(RUN, [started()], when=exactly(-1)), "when.version"),
        (lambda log: log.append(RUN, [started()], when=exactly(2**53)), "when.version"),
        (lambda log: log.append(RUN, [started()], when=unless_closed("shard 0", -1)), "when.epoch"),
        (lambda log: list(log.read(RUN, after_version=-1)), "after_version"),
        (lambda log: list(log.read(RUN, up_to=-1)), "up_to"),
        (lambda log: list(log.read_all(after=-1)), "after"),
        (lambda log: list(log.read_all(after=2**53)), "after"),
        (lambda log: list(log.read_all(page_size=0)), "page_size"),
        (lambda log: log.subscribe(after=-1), "after"),
        (lambda log: log.state(RUN, at=-1), "up_to"),
    ],
)
def test_number_when_out_of_range(act: Act, field: str, logs: list[Ledger]) -> None:
    """Numbers have a lowest value too."""
    kind, message = the_refusal(logs, act)

    assert (InvalidInput, True) == (kind, message.startswith(f"{field}: "))


# --- texts ------------------------------------------------------------------------------------------------------

TEXTS: dict[str, Callable[[Ledger, Any], object]] = {
    "kind": lambda log, text: log.enqueue(text),
    "project": lambda log, text: log.enqueue("t", project=text),
    "idempotency_key": lambda log, text: log.enqueue("t", idempotency_key=text),
    "exclusive_key": lambda log, text: log.enqueue("t", exclusive_key=text),
    "labels.a": lambda log, text: log.enqueue("t", labels={"a": text}),
    "labels name": lambda log, text: log.enqueue("t", labels={text: "a"}),
    "worker": lambda log, text: log.start(RUN, worker=text),
    "phase": lambda log, text: log.enter_phase(RUN, text),
    "version": lambda log, text: log.resolve_version(RUN, text),
    "gate": lambda log, text: log.finish_gate(RUN, text, "passed"),
    "summary": lambda log, text: log.finish_gate(RUN, "g", "passed", summary=text),
    "log_ref": lambda log, text: log.finish_gate(RUN, "g", "passed", log_ref=text),
    "error": lambda log, text: log.fail(RUN, error=text),
    "category": lambda log, text: log.fail(RUN, error="e", category=text),
    "failure_summary": lambda log, text: log.fail(RUN, error="e", failure_summary=text),
    "reason": lambda log, text: log.abort(RUN, reason=text),
    "mode": lambda log, text: log.abort(RUN, mode=text),
    "output_ref": lambda log, text: log.complete(RUN, output_ref=text),
    "name": lambda log, text: log.record_artifact(RUN, text, "u:"),
    "uri": lambda log, text: log.record_artifact(RUN, "n", text),
    "media_type": lambda log, text: log.record_artifact(RUN, "n", "u:", media_type=text),
    "note": lambda log, text: log.annotate(RUN, note=text),
    "source": lambda log, text: log.append_log(RUN, ["l"], source=text),
    "level": lambda log, text: log.append_log(RUN, ["l"], level=text),
    "actor": lambda log, text: log.bind(actor=text),
    "correlation_id": lambda log, text: log.bind(correlation_id=text),
    "causation_id": lambda log, text: log.bind(causation_id=text),
}


@pytest.mark.parametrize("text", [NUL, SURROGATE, b"bytes", 7], ids=["nul", "surrogate", "bytes", "int"])
@pytest.mark.parametrize("field", TEXTS)
def test_text_when_it_is_none(field: str, text: Any, logs: list[Ledger]) -> None:
    """What is no text that every store can keep is refused by its name."""
    kind, message = the_refusal(logs, lambda log: TEXTS[field](log, text))

    assert (InvalidInput, True) == (kind, message.startswith(f"{field}: "))


@pytest.mark.parametrize("field", [field for field in TEXTS if field != "labels.a"])
def test_text_when_it_is_empty(field: str, logs: list[Ledger]) -> None:
    """An empty text says nothing and is refused; only a label's value may be empty."""
    kind, message = the_refusal(logs, lambda log: TEXTS[field](log, ""))

    assert (InvalidInput, f"{field}: is empty. Nothing was written; correct the value and send it again.") == (
        kind,
        message,
    )


@pytest.mark.parametrize("lines", [[NUL, SURROGATE, "\r\x1b[0m"]])
def test_log_line_when_it_cannot_be_stored(lines: list[str], log: Ledger) -> None:
    """Output is nobody's input: what cannot be stored of it is replaced, never refused."""
    run = log.enqueue("test")

    log.append_log(run.id, lines)

    stored = [event.data for event in log.read(run.id)][-1]
    assert LogAppended(lines=["broken \ufffd text", "broken \ufffd text", "\r\x1b[0m"]) == stored


@pytest.mark.parametrize("extra", [0, 1])
def test_log_line_at_its_limit_and_past_it(extra: int, memory: Ledger) -> None:
    """A line is cut past its limit, never refused."""
    run = memory.enqueue("test")
    line = "h" + "x" * (limits.LOG_LINE_CHARS_MAX - 2 + extra) + "t"

    memory.append_log(run.id, [line])

    stored = [event.data for event in memory.read(run.id)][-1]
    assert isinstance(stored, LogAppended)
    assert (limits.LOG_LINE_CHARS_MAX, "h", "t") == (len(stored.lines[0]), stored.lines[0][0], stored.lines[0][-1])
    assert (extra == 0) == (line == stored.lines[0])


@pytest.mark.parametrize("extra", [0, 1])
def test_log_lines_at_their_limit_and_past_it(extra: int, memory: Ledger) -> None:
    """More lines than one event takes become two events."""
    run = memory.enqueue("test")

    appended = memory.append_log(run.id, ["l"] * (limits.LOG_LINES_PER_EVENT_MAX + extra))

    events = [event.data for event in memory.read(run.id)][1:]
    assert limits.LOG_LINES_PER_EVENT_MAX + extra == appended
    assert [limits.LOG_LINES_PER_EVENT_MAX, 1][: 1 + extra] == [len(event.lines) for event in events]  # type: ignore[union-attr]


@pytest.mark.parametrize("character", ["x", "\x01", "ä", "😀", '"'])
def test_log_lines_when_all_are_long(character: str, memory: Ledger) -> None:
    """Lines of any size and any characters are kept, in events that fit."""
    run = memory.enqueue("test")
    lines = [character * limits.LOG_LINE_CHARS_MAX] * 100

    memory.append_log(run.id, lines)

    stored = [line for event in memory.read(run.id) if isinstance(event.data, LogAppended) for line in event.data.lines]
    assert lines == stored


@pytest.mark.parametrize("extra", [0, 1])
def test_results_at_the_limit_of_one_event_and_past_it(extra: int, memory: Ledger) -> None:
    """More results than one event takes become two events of one append, numbered on."""
    run = memory.enqueue("test")
    most = limits.RESULTS_PER_EVENT_MAX

    appended = memory.append_results(run.id, [{"status": "passed"}] * (most + extra), first_sequence=5)

    events = [event.data for event in memory.read(run.id)][1:]
    assert most + extra == appended
    assert [(most, 5), (1, most + 5)][: 1 + extra] == [
        (len(event.results), event.first_sequence) for event in events if isinstance(event, ShardResultAppended)
    ]


# --- wrong types ------------------------------------------------------------------------------------------------

WRONG_TYPES: dict[str, Act] = {
    "kind is a list": lambda log: log.enqueue([]),  # type: ignore[arg-type]
    "kind is None": lambda log: log.enqueue(None),  # type: ignore[arg-type]
    "input is a list": lambda log: log.enqueue("t", input=[]),  # type: ignore[arg-type]
    "input is a text": lambda log: log.enqueue("t", input="{}"),  # type: ignore[arg-type]
    "labels are a list": lambda log: log.enqueue("t", labels=["a"]),  # type: ignore[arg-type]
    "label is a number": lambda log: log.enqueue("t", labels={"a": 1}),  # type: ignore[dict-item]
    "priority is a float": lambda log: log.enqueue("t", priority=1.0),  # type: ignore[arg-type]
    "priority is a bool": lambda log: log.enqueue("t", priority=True),
    "shard_count is a text": lambda log: log.enqueue("t", shard_count="4"),  # type: ignore[arg-type]
    "not_before is a text": lambda log: log.enqueue("t", not_before="2026-03-01T12:00:00Z"),  # type: ignore[arg-type]
    "not_before is naive": lambda log: log.enqueue("t", not_before=NAIVE),
    "not_before is before the year 1": lambda log: log.enqueue(
        "t", not_before=datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))
    ),
    "not_before is after the year 9999": lambda log: log.enqueue(
        "t", not_before=datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))
    ),
    "on_active is unknown": lambda log: log.enqueue("t", exclusive_key="k", on_active="replace"),  # type: ignore[arg-type]
    "parent is no id": lambda log: log.enqueue("t", parent_run_id="RUN-1"),
    "retry_of is upper case": lambda log: log.enqueue("t", retry_of=str(RUN).upper()),
    "run_id is no id": lambda log: log.enqueue("t", run_id="RUN-1"),
    "run id is a number": lambda log: log.start(7, worker="w"),  # type: ignore[arg-type]
    "run id is a prefix": lambda log: log.state(RUN[:8]),
    "run id has a newline": lambda log: log.state(RUN + "\n"),
    "event_id is no id": lambda log: log.complete(RUN, event_id="e1"),
    "event_id of results is no id": lambda log: log.append_results(RUN, [{"status": "passed"}], event_id="e1"),
    "event_id for many": lambda log: log.append_results(RUN, [{"status": "passed"}] * 1_001, event_id=an_event_id(1)),
    "finished_at is naive": lambda log: log.complete(RUN, finished_at=NAIVE),
    "retry_at is naive": lambda log: log.fail_attempt(RUN, error="e", retry_at=NAIVE),
    "deadline is naive": lambda log: log.request_abort(RUN, deadline=NAIVE),
    "up_to is naive": lambda log: list(log.read(RUN, up_to=NAIVE)),
    "up_to is a text": lambda log: list(log.read(RUN, up_to="2026-03-01")),  # type: ignore[arg-type]
    "at is naive": lambda log: log.state(RUN, at=NAIVE),
    "after_version is a text": lambda log: list(log.read(RUN, after_version="1")),  # type: ignore[arg-type]
    "after is None": lambda log: list(log.read_all(after=None)),  # type: ignore[arg-type]
    "types is a text": lambda log: list(log.read_all(types="completed")),
    "types hold a number": lambda log: list(log.read_all(types=[1])),  # type: ignore[list-item]
    "types of a subscription are a text": lambda log: log.subscribe(types="completed"),
    "results are an object": lambda log: log.append_results(RUN, {"status": "passed"}),  # type: ignore[arg-type]
    "results are a text": lambda log: log.append_results(RUN, "passed"),  # type: ignore[arg-type]
    "results are None": lambda log: log.append_results(RUN, None),  # type: ignore[arg-type]
    "shard is a text": lambda log: log.append_results(RUN, [{"status": "passed"}], shard="0"),  # type: ignore[arg-type]
    "shard_attempt without shard": lambda log: log.append_results(
        RUN,
        [{"status": "passed"}],
        shard_attempt="2",  # type: ignore[arg-type]
    ),
    "delta is a float": lambda log: log.increment_stats(RUN, passed=1.5),  # type: ignore[arg-type]
    "delta is a bool": lambda log: log.increment_stats(RUN, passed=True),
    "lines are one text": lambda log: log.append_log(RUN, "line"),
    "lines hold a number": lambda log: log.append_log(RUN, ["a", 1]),  # type: ignore[list-item]
    "lines are None": lambda log: log.append_log(RUN, None),  # type: ignore[arg-type]
    "annotation is empty": lambda log: log.annotate(RUN),
    "annotated labels are a list": lambda log: log.annotate(RUN, labels=["a"]),  # type: ignore[arg-type]
    "annotated label is a number": lambda log: log.annotate(RUN, labels={"a": 1}),  # type: ignore[dict-item]
    "annotated label name is a number": lambda log: log.annotate(RUN, labels={1: None}),  # type: ignore[dict-item]
    "gate outcome is unknown": lambda log: log.finish_gate(RUN, "g", "maybe"),
    "gate outcome is a list": lambda log: log.finish_gate(RUN, "g", []),  # type: ignore[arg-type]
    "phase is undeclared": lambda log: log.enter_phase(RUN, "c"),
    "skipped is a text": lambda log: log.abort(RUN, skipped="all"),  # type: ignore[arg-type]
    "skipped has no status": lambda log: log.abort(RUN, skipped=[{"testId": "TC-1"}]),
    "exit code is a text": lambda log: log.complete_shard(RUN, 0, exit_code="0"),  # type: ignore[arg-type]
    "events is an event": lambda log: log.append(RUN, started()),  # type: ignore[arg-type]
    "event is an object": lambda log: log.append(RUN, [{"type": "started"}]),  # type: ignore[list-item]
    "event is its type": lambda log: log.append(RUN, [Started]),  # type: ignore[list-item]
    "attempt is a text": lambda log: log.append(RUN, [Started(attempt="1", started_at=NOON, worker="w")]),  # type: ignore[arg-type]
    "worker is None": lambda log: log.append(RUN, [Started(attempt=1, started_at=NOON, worker=None)]),  # type: ignore[arg-type]
    "started_at is naive": lambda log: log.append(RUN, [Started(attempt=1, started_at=NAIVE, worker="w")]),
    "delta is not finite": lambda log: log.append(RUN, [StatsIncremented(passed=math.nan)]),  # type: ignore[arg-type]
    "delta is past 2^53": lambda log: log.append(RUN, [StatsIncremented(passed=2**53)]),
    "delta is past 2^64": lambda log: log.append(RUN, [StatsIncremented(passed=2**64)]),
    "line holds NUL": lambda log: log.append(RUN, [LogAppended(lines=[NUL])]),
    "line holds a surrogate": lambda log: log.append(RUN, [LogAppended(lines=[SURROGATE])]),
    "results are a tuple": lambda log: log.append(RUN, [ShardResultAppended(results=({"status": "passed"},))]),  # type: ignore[arg-type]
    "result has no status": lambda log: log.append(RUN, [ShardResultAppended(results=[{}])]),
    "label is a number in an event": lambda log: log.append(RUN, [Annotated(labels={"a": 1})]),  # type: ignore[dict-item]
    "two terminal events": lambda log: log.append(RUN, [Completed(finished_at=NOON), Aborted(finished_at=NOON)]),
    "kind of an event is a number": lambda log: append_enqueued(log, kind=7),
    "kind of an event holds NUL": lambda log: append_enqueued(log, kind=NUL),
    "project of an event holds a surrogate": lambda log: append_enqueued(log, project=SURROGATE),
    "labels of an event are a list": lambda log: append_enqueued(log, labels=["a"]),
    "phases of an event are a text": lambda log: append_enqueued(log, phases="ab"),
    "flag of an event is a text": lambda log: append_enqueued(log, failed_verdict_fails="no"),
    "moment of an event is naive": lambda log: append_enqueued(log, enqueued_at=NAIVE),
    "parent of an event is no id": lambda log: append_enqueued(log, parent_run_id="RUN-1"),
    "phases of a kind are a text": lambda log: enqueue_kind(log, phases="ab"),
    "phases of a kind are a set": lambda log: enqueue_kind(log, phases={"a", "b"}),
    "phase of a kind is empty": lambda log: enqueue_kind(log, phases=("a", "")),
    "flag of a kind is a number": lambda log: enqueue_kind(log, failed_verdict_fails=1),
    "attempts of a kind are a text": lambda log: enqueue_kind(log, attempts_max="3"),
    "labels of an event are no mapping": lambda log: log.append(RUN, [Annotated(labels=["a"])]),  # type: ignore[arg-type]
    "event_ids are too few": lambda log: log.append(RUN, [started(), started()], event_ids=[an_event_id(1)]),
    "event_ids are no list": lambda log: log.append(RUN, [started()], event_ids=5),
    "recorded_at is no list": lambda log: log.append(RUN, [started()], recorded_at=5),
    "recorded_at is a time": lambda log: log.append(RUN, [started()], recorded_at=NOON),
    "event_ids are no ids": lambda log: log.append(RUN, [started()], event_ids=["e1"]),
    "condition is a number": lambda log: log.append(RUN, [started()], when=3),  # type: ignore[arg-type]
    "condition has a text": lambda log: log.append(RUN, [started()], when=exactly("3")),  # type: ignore[arg-type]
    "condition has no rule": lambda log: log.append(RUN, [started()], when=Condition("exactly", version=2)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_argument_when_it_has_the_wrong_type(name: str, logs: list[Ledger]) -> None:
    """A value of the wrong type is refused as input, the same on every store."""
    kind, message = the_refusal(logs, WRONG_TYPES[name])

    assert (InvalidInput, True) == (kind, message.endswith("Nothing was written; correct the value and send it again."))


def test_condition_when_every_rule_is_tried(logs: list[Ledger]) -> None:
    """The rules of conditions are the five that the port names."""
    assert {"any", "exists", "no_run", "exactly", "unless_closed"} == {rule.value for rule in Rule}


@pytest.mark.parametrize(
    "url", ["", "runs.db", "mysql://h/d", "sqlite://", "sqlite:///", "sqlite:///:memory:", "memory"]
)
def test_url_when_it_names_no_ledger(url: str) -> None:
    """A URL that names no ledger is refused, with those that do."""
    with pytest.raises(InvalidInput, match="sqlite:///"):
        ledger.open(url)


# --- secrets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "act",
    [
        lambda log: log.enqueue("t", input={"env": {"TOKEN": TOKEN}}),
        lambda log: log.append(a_run_id(9), [enqueued(input={"env": {"TOKEN": TOKEN}})]),
    ],
)
def test_input_when_it_holds_a_secret(act: Act, logs: list[Ledger]) -> None:
    """A secret is refused on every way in, by its place and kind, and is in no part of the error."""
    kind, message = the_refusal(logs, act)

    assert SecretInInput is kind
    assert message.startswith("input.env.TOKEN: looks like a secret (GitHub token). ")
    assert TOKEN not in message


def test_input_when_it_refers_to_a_secret(log: Ledger) -> None:
    """A reference is stored as it is."""
    given: Mapping[str, Any] = {"env": {"TOKEN": "${GITHUB_TOKEN}", "password": "vault:db#password"}}

    run = log.enqueue("test", input=given)

    assert given == next(event.data for event in log.read(run.id)).input  # type: ignore[union-attr]


# --- runs that are not there, and what they do not allow ----------------------------------------------------------

UNKNOWN: dict[str, Act] = {
    "release": lambda log: log.release(UNKNOWN_RUN),
    "start": lambda log: log.start(UNKNOWN_RUN, worker="w"),
    "enter_phase": lambda log: log.enter_phase(UNKNOWN_RUN, "p"),
    "resolve_version": lambda log: log.resolve_version(UNKNOWN_RUN, "v"),
    "finish_gate": lambda log: log.finish_gate(UNKNOWN_RUN, "g", "passed"),
    "fail_attempt": lambda log: log.fail_attempt(UNKNOWN_RUN, error="e"),
    "interrupt": lambda log: log.interrupt(UNKNOWN_RUN, reason="r"),
    "resume": lambda log: log.resume(UNKNOWN_RUN, worker="w"),
    "request_abort": lambda log: log.request_abort(UNKNOWN_RUN),
    "start_finalization": lambda log: log.start_finalization(UNKNOWN_RUN, worker="w"),
    "complete": lambda log: log.complete(UNKNOWN_RUN),
    "fail": lambda log: log.fail(UNKNOWN_RUN, error="e"),
    "abort": lambda log: log.abort(UNKNOWN_RUN),
    "delete": lambda log: log.delete(UNKNOWN_RUN),
    "restore": lambda log: log.restore(UNKNOWN_RUN),
    "append_results": lambda log: log.append_results(UNKNOWN_RUN, [{"status": "passed"}]),
    "append_results of a shard": lambda log: log.append_results(UNKNOWN_RUN, [{"status": "passed"}], shard=0),
    "append_log": lambda log: log.append_log(UNKNOWN_RUN, ["l"]),
    "record_artifact": lambda log: log.record_artifact(UNKNOWN_RUN, "n", "u:"),
    "record_document": lambda log: log.record_document(UNKNOWN_RUN, "n", {}),
    "annotate": lambda log: log.annotate(UNKNOWN_RUN, note="n"),
    "complete_shard": lambda log: log.complete_shard(UNKNOWN_RUN, 0),
    "retry_shard": lambda log: log.retry_shard(UNKNOWN_RUN, 0),
    "state": lambda log: log.state(UNKNOWN_RUN),
    "state at a version": lambda log: log.state(UNKNOWN_RUN, at=1),
    "append unless closed": lambda log: log.append(UNKNOWN_RUN, [started()], when=unless_closed()),
    "append if it exists": lambda log: log.append(UNKNOWN_RUN, [started()], when=ledger.EXISTS),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_run_when_it_is_unknown(name: str, logs: list[Ledger]) -> None:
    """An unknown run is an error that names it, and gets no event."""
    message = f"run {UNKNOWN_RUN} does not exist in this ledger. Check the id, and which ledger is open."

    assert (RunNotFound, message) == the_refusal(logs, UNKNOWN[name])


def test_unknown_run_when_counted_anonymously(log: Ledger) -> None:
    """The anonymous counters keep the answers of the systems they come from: nothing moved."""
    assert 0 == log.increment_stats(UNKNOWN_RUN, passed=1)
    assert (False, 0) == (
        log.increment_shards_completed(UNKNOWN_RUN).advanced,
        log.increment_shards_completed(UNKNOWN_RUN).new_value,
    )
    assert [] == list(log.read_all())


ILLEGAL: dict[str, tuple[Act, str]] = {
    "complete": (lambda log: log.complete(SCHEDULED), "scheduled"),
    "start": (lambda log: log.start(SCHEDULED, worker="w"), "scheduled"),
    "enter_phase": (lambda log: log.enter_phase(SCHEDULED, "p"), "scheduled"),
    "finish_gate": (lambda log: log.finish_gate(SCHEDULED, "g", "passed"), "scheduled"),
    "resume": (lambda log: log.resume(SCHEDULED, worker="w"), "scheduled"),
    "interrupt": (lambda log: log.interrupt(SCHEDULED, reason="r"), "scheduled"),
    "release": (lambda log: log.release(RUN), "running"),
    "delete": (lambda log: log.delete(RUN), "running"),
    "fail_attempt": (lambda log: log.fail_attempt(RUN, error="e"), "running"),
}


@pytest.mark.parametrize("name", ILLEGAL)
def test_command_when_the_status_forbids_it(name: str, logs: list[Ledger]) -> None:
    """A refusal names the command, the run and its status, the same on every store."""
    act, status = ILLEGAL[name]

    kind, message = the_refusal(logs, act)

    assert IllegalTransition is kind
    assert message.startswith(f"{name}: run {RUN if status == 'running' else SCHEDULED} is {status}: ")
    assert message.endswith("Read the run again and decide anew.")


def test_shard_when_it_was_handed_on(logs: list[Ledger]) -> None:
    """Completing a shard for an attempt that is over is refused alike."""
    for log in logs:
        log.retry_shard(RUN, 1)

    kind, message = the_refusal(logs, lambda log: log.complete_shard(RUN, 1, shard_attempt=1))

    assert (IllegalTransition, True) == (kind, "shard 1 is at attempt 2, and you finished attempt 1" in message)


def test_moment_when_it_has_another_zone(log: Ledger) -> None:
    """Moments of every zone are kept in UTC, in one format."""
    elsewhere = datetime(2026, 3, 1, 18, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))

    run = log.enqueue("test", not_before=elsewhere)

    data = next(event.data for event in log.read(run.id))
    assert datetime(2026, 3, 1, 13, 0, tzinfo=UTC) == data.not_before  # type: ignore[union-attr]
