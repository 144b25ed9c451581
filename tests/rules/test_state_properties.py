"""What holds of folding, whatever the events are."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from builders import COMPLETED, FULL, RUN, recorded
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.run import codec
from ledger.run.codec import decode, encode
from ledger.run.events import (
    EVENT_TYPES,
    TERMINAL_EVENTS,
    Purged,
    RunEvent,
    ShardCompleted,
    ShardResultAppended,
    ShardRetried,
    ShardStarted,
    Skeleton,
)
from ledger.run.state import RunState, apply, copy, evolve, fold, initial, skeleton
from ledger.run.values import GateOutcome, OnLost, OnShardFailure, Policy, Status, Verdict

settings.register_profile("ci", max_examples=80, deadline=None, derandomize=True)
settings.register_profile("campaign", max_examples=3_000, deadline=None)
settings.load_profile("campaign" if os.environ.get("RUNFOLD_CAMPAIGN") else "ci")

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)
numbers = st.integers(min_value=-(2**53) + 1, max_value=2**53 - 1)
small = st.integers(min_value=0, max_value=4)
moments = st.timedeltas(timedelta(0), timedelta(days=36_500)).map(lambda age: datetime(2000, 1, 1, tzinfo=UTC) + age)
moment = datetime(2026, 3, 1, tzinfo=UTC)
statuses = st.sampled_from(["passed", "failed", "skipped", "warning", "xfailed", "error"])
skip_reasons = st.sampled_from(["over_budget", "upstream_failed"]) | st.lists(texts, max_size=1) | st.none()
result_objects = st.fixed_dictionaries({"status": statuses}, optional={"skipReason": skip_reasons, "testId": texts})
result_lists = st.lists(result_objects, max_size=4)

FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "labels": st.dictionaries(texts, texts, max_size=2),
    "input": st.dictionaries(texts, st.none() | st.booleans() | numbers | texts, max_size=2),
    "phases": st.lists(texts, max_size=3),
    "plan": st.lists(st.lists(texts, max_size=2), max_size=2),
    "lines": st.lists(texts, max_size=3),
    "document": st.none() | st.booleans() | numbers | texts | st.dictionaries(texts, st.lists(texts), max_size=2),
    "results": result_lists,
    "skipped": result_lists,
    "outcome": st.sampled_from(GateOutcome),
    "gate": st.sampled_from(["lint", "coverage"]),
    "phase": st.sampled_from(["build", "test"]),
    "shard": st.none() | small,
    "shard_attempt": st.integers(min_value=1, max_value=3),
    "first_sequence": st.none() | small,
    "shard_count": st.none() | st.integers(min_value=1, max_value=3),
    "attempt": st.integers(min_value=1, max_value=3),
}
KEYED = {"shard": small}
POLICIES = st.builds(
    Policy,
    on_lost=st.sampled_from(OnLost),
    on_shard_failure=st.sampled_from(OnShardFailure),
    retry_delay_s=small,
    timeout_s=st.none() | small,
)


def events_of(kind: type[RunEvent]) -> st.SearchStrategy[RunEvent]:
    """Give events of one type: each field by its name, else by its type."""
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for field in msgspec.structs.fields(kind):
        if field.name in KEYED and kind in (ShardRetried, ShardStarted):
            fields[field.name] = KEYED[field.name]
        elif kind.__name__ == "Annotated" and field.name == "labels":
            fields[field.name] = st.dictionaries(texts, st.none() | texts, max_size=2)
        elif field.name == "policy":
            fields[field.name] = POLICIES
        elif field.name in FIELDS:
            fields[field.name] = FIELDS[field.name]
        else:
            shape = str(field.type)
            value = texts if "str" in shape else moments if "datetime" in shape else st.booleans()
            value = numbers if "int" in shape else value
            fields[field.name] = st.none() | value if "None" in shape else value
    return st.builds(kind, **fields)


def skeletons() -> st.SearchStrategy[Skeleton]:
    fields = {field.name: field.type for field in msgspec.structs.fields(Skeleton)}
    values = {
        name: moments if name.endswith("_at") else texts if "str" in str(shape) else small
        for name, shape in fields.items()
    }
    values |= {"status": st.sampled_from(Status), "verdict": st.sampled_from(Verdict)}
    return st.builds(Skeleton, **values)


FIELDS["skeleton"] = skeletons()

events = st.one_of([events_of(kind) for kind in EVENT_TYPES])
streams = st.lists(events, max_size=15)
unpurged = st.lists(st.one_of([events_of(kind) for kind in EVENT_TYPES if kind is not Purged]), max_size=15)


def folded(stream: list[RunEvent]) -> RunState:
    return fold(initial(RUN), recorded(stream))


@given(streams)
def test_evolve_when_any_event_follows_any_other(stream: list[RunEvent]) -> None:
    """Folding takes every event in every order, and gives a state that can be stored and read."""
    state = folded(stream)

    assert len(stream) == state.version
    assert state == msgspec.json.decode(msgspec.json.encode(state), type=RunState)


@given(streams)
def test_fold_when_repeated_evolve(stream: list[RunEvent]) -> None:
    """Folding a stream at once, event by event, or in place is the same."""
    state, own = initial(RUN), initial(RUN)
    for event in recorded(stream):
        state = evolve(state, event)
        apply(own, event)

    assert folded(stream) == state == own


@given(streams, st.integers(min_value=0, max_value=15))
def test_fold_when_resumed_from_a_stored_state(stream: list[RunEvent], cut: int) -> None:
    """A state that was stored in between folds on to the same state."""
    stored = recorded(stream)
    before = msgspec.json.decode(msgspec.json.encode(fold(initial(RUN), stored[:cut])), type=RunState)

    assert folded(stream) == fold(before, stored[cut:])


@given(streams, events)
def test_evolve_when_the_state_is_used_again(stream: list[RunEvent], event: RunEvent) -> None:
    """Evolving leaves the given state alone."""
    state = folded(stream)
    before = copy(state)
    [next_event] = recorded([event], after=len(stream))

    evolve(state, next_event)

    assert before == state


@given(unpurged)
def test_status_when_closed(stream: list[RunEvent]) -> None:
    """Exactly the first terminal event closes a run, and the status stays what it says."""
    firsts = [version for version, event in enumerate(stream, 1) if isinstance(event, TERMINAL_EVENTS)]
    names = {"Completed": Status.COMPLETED, "Failed": Status.FAILED, "Aborted": Status.ABORTED}

    state = folded(stream)

    assert (firsts[0] if firsts else 0) == state.closed_version
    if firsts:
        assert names[type(stream[firsts[0] - 1]).__name__] == state.status
    else:
        assert not state.is_terminal


@given(unpurged)
def test_figures_when_counted_anew(stream: list[RunEvent]) -> None:
    """The counts by status, and the counts of passed, failed and skipped, are two views of the same results."""
    state = folded(stream)

    by_status = state.counted_passed + state.counted_failed + state.skipped
    parts = [state.unsharded, state.left_out, *[shard.results for shard in state.shards.values()]]
    of_parts = sum(sum(part.statuses.values()) for part in parts)
    assert by_status == sum(state.statuses.values()) == of_parts
    assert all(count > 0 for count in state.statuses.values())
    assert 0 <= state.shards_completed <= state.shards_cap
    assert (state.failed > 0) <= (state.verdict is Verdict.FAILED)


@given(streams, streams, st.data())
def test_fold_when_the_past_is_erased(past: list[RunEvent], later: list[RunEvent], data: st.DataObject) -> None:
    """A purged run is the same whatever of its past is erased by the time it is folded, and in whatever steps."""
    state = folded(past)
    purge = Purged(skeleton=skeleton(state, deleted_at=moment), is_whole=data.draw(st.booleans()))
    stream = recorded([*past, purge, *later])
    gone = data.draw(st.sets(st.integers(min_value=0, max_value=max(0, len(past) - 1))))
    cut = data.draw(st.integers(min_value=0, max_value=len(stream)))
    left = [
        msgspec.structs.replace(event, data=None) if index in gone and index < len(past) else event
        for index, event in enumerate(stream)
    ]

    whole = msgspec.json.encode(fold(initial(RUN), stream))

    assert whole == msgspec.json.encode(fold(initial(RUN), left))
    if cut <= len(past):
        assert whole == msgspec.json.encode(fold(fold(initial(RUN), stream[:cut]), left[cut:]))


keyed_results = st.builds(
    ShardResultAppended,
    results=st.lists(result_objects, min_size=1, max_size=4),
    shard=st.just(0),
    shard_attempt=st.integers(min_value=1, max_value=2),
    first_sequence=st.integers(min_value=0, max_value=12),
)


@given(st.lists(keyed_results, max_size=12), st.randoms(use_true_random=False))
def test_keyed_results_when_delivered_in_any_order_and_twice(batches: list[ShardResultAppended], random: Any) -> None:
    """A shard's results count once each, by attempt and sequence number, whatever the delivery."""
    newest = max((batch.shard_attempt for batch in batches), default=1)
    seen = {
        batch.first_sequence + index
        for batch in batches
        if batch.shard_attempt == newest and batch.first_sequence is not None
        for index in range(len(batch.results))
    }
    twice = [*batches, *batches]
    random.shuffle(twice)

    state = folded([FULL["enqueued"], *twice])

    assert len(seen) == sum(state.statuses.values())


@given(st.lists(st.builds(ShardCompleted, shard=small, shard_attempt=st.just(1)), max_size=8))
def test_shards_when_completed_in_any_order_and_twice(completions: list[ShardCompleted]) -> None:
    """A shard counts once, however often it is completed."""
    enqueued = msgspec.structs.replace(FULL["enqueued"], shard_count=5)

    state = folded([enqueued, *completions, *completions[::-1]])

    assert len({completion.shard for completion in completions}) == state.shards_completed


@given(events)
def test_payload_when_written_and_read(event: RunEvent) -> None:
    """An event is read from its bytes as it was written, and written again as the same bytes."""
    payload = encode(event)

    read = decode(payload)

    assert event == read
    assert payload == encode(read)


@pytest.mark.parametrize("function", [evolve, fold, codec.encode], ids=lambda function: function.__name__)
def test_rules_when_called_twice(function: Callable[..., object]) -> None:
    """The same question has the same answer: nothing is remembered in between."""
    stored = recorded([*FULL.values(), COMPLETED])
    arguments: dict[str, tuple[Any, ...]] = {
        "evolve": (initial(RUN), stored[0]),
        "fold": (initial(RUN), stored),
        "encode": (FULL["enqueued"],),
    }

    first = function(*arguments[function.__name__])

    assert first == function(*arguments[function.__name__])
