"""The tasks follow the log in the same way on every store: what memory does in Python, the databases do in triggers."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ledger
from ledger import Kind, Ledger, LedgerError

KINDS = (Kind(name="cut", attempts_max=3), Kind(name="whole", attempts_max=2))
SHARDS = st.integers(0, 2)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), st.integers(1, 4)),
        st.tuples(st.just("start"), st.just(0)),
        st.tuples(st.just("release"), st.just(0)),
        st.tuples(st.just("complete_shard"), SHARDS),
        st.tuples(st.just("increment_shards_completed"), st.just(0)),
        st.tuples(st.just("retry_shard"), SHARDS),
        st.tuples(st.just("fail_attempt"), st.integers(0, 1)),
        st.tuples(st.just("interrupt"), st.just(0)),
        st.tuples(st.just("resume"), st.just(0)),
        st.tuples(st.just("request_abort"), st.just(0)),
        st.tuples(st.just("start_finalization"), st.just(0)),
        st.tuples(st.just("complete"), st.just(0)),
        st.tuples(st.just("abort"), st.just(0)),
    ),
    max_size=14,
)
LATER = datetime(2099, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def logs(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: object, postgres_template: str
) -> Iterator[list[Ledger]]:
    postgres_url = postgres_server.create_database(template=postgres_template)  # type: ignore[attr-defined]
    urls = ["memory:", f"sqlite:///{tmp_path_factory.mktemp('tasks') / 'runs.db'}", postgres_url]
    opened = [ledger.open(url, kinds=KINDS, migrate=True) for url in urls]
    yield opened
    for log in opened:
        log.close()
    postgres_server.drop_database(postgres_url)  # type: ignore[attr-defined]


def take(log: Ledger, run_id: str, step: str, number: int) -> None:
    if step == "claim":
        log.claim("w1", kinds=["cut", "whole"], limit=number)
    elif step in ("start", "resume", "start_finalization"):
        getattr(log, step)(run_id, worker="w2")
    elif step == "complete_shard":
        log.complete_shard(run_id, number)
    elif step == "retry_shard":
        log.retry_shard(run_id, number)
    elif step == "fail_attempt":
        log.fail_attempt(run_id, error="no", retry_at=LATER if number else None)
    elif step == "interrupt":
        log.interrupt(run_id, reason="gone")
    else:
        getattr(log, step)(run_id)


def seen(log: Ledger, run_id: str) -> list[tuple[object, ...]]:
    """Show what does not depend on the clock."""
    return [
        (
            task.shard,
            task.purpose,
            task.state,
            task.priority,
            task.attempt,
            task.deadline is not None,
            task.available_at if task.available_at == LATER else task.available_at is not None,
            task.abort_requested,
        )
        for task in log.tasks(run_id=run_id)
    ]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(shard_count=st.sampled_from([None, 1, 3]), is_later=st.booleans(), steps=STEPS)
def test_tasks_after_any_commands(
    logs: list[Ledger], shard_count: int | None, is_later: bool, steps: list[tuple[str, int]]
) -> None:
    """Whatever happens to a run, what is left to do of it is the same on every store, and nothing once it is done."""
    kind = "whole" if shard_count is None else "cut"
    not_before = datetime.now(UTC) + timedelta(hours=1) if is_later else None
    runs = [(log, log.enqueue(kind, shard_count=shard_count, not_before=not_before).id) for log in logs]

    for step, number in steps:
        for log, run_id in runs:
            with suppress(LedgerError):
                take(log, run_id, step, number)
        memory, *others = [seen(log, run_id) for log, run_id in runs]
        for other in others:
            assert memory == other, step

    for log, run_id in runs:
        log.abort(run_id)
        assert [] == seen(log, run_id)
