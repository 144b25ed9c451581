"""The rows of `results` are what the rules of a run count, whatever the events are."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import msgspec
import pytest
from builders import NOON, RUN, enqueued, new_events, recorded, started
from hypothesis import given
from hypothesis import strategies as st
from test_state_properties import events, result_objects

from ledger.errors import InvariantBroken
from ledger.events import join_page
from ledger.run.events import (
    Aborted,
    Completed,
    RunEvent,
    ShardCompleted,
    ShardResultAppended,
    ShardRetried,
    ShardStarted,
)
from ledger.run.state import fold, initial
from ledger.stores.memory import MemoryStore
from projections.decoding import reader_of
from projections.details import StoredDetails
from projections.results import LAYOUT, LEFT_OUT, RESULTS, UNSHARDED
from projections.stores import open_result_tables

COLUMNS = ("number", "part", *[name for name, _ in LAYOUT.columns])

shards = st.sampled_from([0, 1])
attempts = st.sampled_from([1, 2, 3])
sequences = st.none() | st.integers(min_value=0, max_value=6)
results_of_shards = st.builds(
    ShardResultAppended,
    results=st.lists(result_objects, min_size=1, max_size=4),
    shard=st.none() | shards,
    shard_attempt=attempts,
    first_sequence=sequences,
)
left_out = st.builds(
    ShardResultAppended,
    results=st.lists(
        st.fixed_dictionaries(
            {"status": st.sampled_from(["skipped", "passed"])},
            optional={"skipReason": st.sampled_from(["over_budget", "skipped_no_impact", "upstream_failed"])},
        ),
        max_size=3,
    ),
    first_sequence=sequences,
)
of_shards = (
    results_of_shards,
    results_of_shards,
    left_out,
    st.builds(ShardRetried, shard=shards, shard_attempt=attempts),
    st.builds(ShardStarted, shard=shards, shard_attempt=attempts, worker=st.just("w1"), started_at=st.just(NOON)),
    st.builds(ShardCompleted, shard=st.none() | shards, shard_attempt=attempts),
    st.builds(started, attempt=attempts),
)
of_one_shard = st.builds(
    ShardResultAppended,
    results=st.lists(result_objects, min_size=1, max_size=2),
    shard=st.just(0),
    shard_attempt=attempts,
    first_sequence=sequences,
)
histories = (
    st.lists(of_one_shard, max_size=12)
    | st.lists(st.one_of(*of_shards), min_size=10, max_size=25)
    | st.lists(st.one_of(*of_shards, events), max_size=25)
)
"""Those in which a shard is tried anew, those of many shards, and any."""


def pages(stream: list[RunEvent], cut: int) -> list[bytes]:
    """Give a history as the log gives it, in two pages."""
    rows = [(version, version, event.envelope, event.payload) for version, event in enumerate(new_events(stream), 1)]
    return [join_page(part) for part in (rows[:cut], rows[cut:]) if part]


def stored(*pages_of_events: bytes) -> StoredDetails:
    """Fold page after page, each from what the tables kept of those before it."""
    tables = open_result_tables(MemoryStore())
    for page in pages_of_events:
        with tables.writing() as writing:
            generation = writing.checkpoint.generation
            row = RESULTS.fold(writing.load(generation, [RUN]).get(RUN), RESULTS.read(page))
            writing.save(generation, [RESULTS.store(row)])
    (whole,) = tables.scan(generation, after_run_id="", limit=2)
    return whole


def details(whole: StoredDetails) -> list[dict[str, Any]]:
    return [dict(zip(COLUMNS, row, strict=True)) for row in whole.rows]


@given(histories)
def test_rows_when_any_event_follows_any_other(stream: list[RunEvent]) -> None:
    """There are as many rows of a status as the run's own fold counts, in each part of the run."""
    stream = [enqueued(shard_count=3), *stream]
    state = fold(initial(RUN), recorded(stream))

    rows = details(stored(*pages(stream, len(stream))))

    by_part: dict[int, Counter[str]] = {}
    for row in rows:
        by_part.setdefault(row["part"], Counter())[row["status"]] += 1
    parts = {UNSHARDED: state.unsharded, LEFT_OUT: state.left_out}
    parts |= {number: shard.results for number, shard in state.shards.items()}
    expected = {part: Counter(tally.statuses) for part, tally in parts.items() if tally.statuses}
    assert ({} if state.purged_version else expected) == by_part


@given(histories, st.integers(min_value=0, max_value=26))
def test_rows_when_folded_on_from_the_tables(stream: list[RunEvent], cut: int) -> None:
    """Folding in two steps, with the rows written in between, gives what folding at once does, to the byte."""
    stream = [enqueued(), *stream]

    whole = stored(*pages(stream, len(stream)))

    assert whole == stored(*pages(stream, min(cut, len(stream))))
    assert len(whole.rows) == whole.header.row_count
    assert len(whole.rows) == len({row[0] for row in whole.rows})


def test_rows_when_a_run_is_tried_anew() -> None:
    """A newer attempt of a run keeps what was left out before dispatch and nothing else."""
    executed = ShardResultAppended(results=[{"status": "failed", "testId": "T0"}], shard=0)
    over_budget = ShardResultAppended(
        results=[{"status": "skipped", "skipReason": "over_budget", "testId": "T1"}, {"status": "passed"}]
    )

    rows = details(stored(*pages([enqueued(), executed, over_budget, started(attempt=2)], 4)))

    assert [("T1", LEFT_OUT, "skipped")] == [(row["test_id"], row["part"], row["outcome"]) for row in rows]


def test_rows_when_an_end_comes_first() -> None:
    """What comes after a run's end is no result of it, its end's own skips are."""
    late = ShardResultAppended(results=[{"status": "passed"}], shard=0)
    ended = Aborted(finished_at=NOON, skipped=[{"status": "skipped", "testId": "T2"}])
    done = Completed(finished_at=NOON)

    rows = details(stored(*pages([enqueued(), ended, late, done], 2)))

    assert [("T2", UNSHARDED)] == [(row["test_id"], row["part"]) for row in rows]


def test_rows_when_one_result_is_appended_to_many() -> None:
    """An append brings the tables its own rows, and a header that does not grow with those that are there."""
    many = [ShardResultAppended(results=[{"status": "passed", "testId": f"T{n}"} for n in range(1_000)], shard=0)] * 5
    one = ShardResultAppended(results=[{"status": "failed", "testId": "T"}], shard=0)
    before, page = pages([enqueued(shard_count=1), *many, one], 6)
    tables = open_result_tables(MemoryStore())
    with tables.writing() as writing:
        generation = writing.checkpoint.generation
        writing.save(generation, [RESULTS.store(RESULTS.fold(None, RESULTS.read(before)))])

    brought = RESULTS.store(RESULTS.fold(tables.load(generation, [RUN])[RUN], RESULTS.read(page)))

    assert [(5_000, "T")] == [(row[0], row[COLUMNS.index("test_id")]) for row in brought.rows]
    assert (frozenset(), False, 5_001) == (brought.forgotten, brought.is_emptied, brought.header.row_count)
    assert len(brought.header.state) < 100


def test_reader_when_a_struct_has_no_events_tag() -> None:
    """A struct whose event got another schema version is refused, not passed over."""

    class Old(msgspec.Struct, tag_field="type", tag="enqueued.0"):
        kind: str

    with pytest.raises(InvariantBroken, match=r"enqueued\.0"):
        reader_of([Old])
