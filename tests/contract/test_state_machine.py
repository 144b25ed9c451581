"""The same commands on memory, SQLite and PostgreSQL: results, errors, versions, events and states are equal.

Hypothesis makes up what several impatient users might do with a few runs, in any order and with any mistakes, and one
clock tells all three ledgers the time. What they answer is compared after every step, what they hold after each, and
what their read models say at the end. `RUNFOLD_CAMPAIGN=1` makes it long.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import msgspec
import pytest
from builders import COMPLETED, FAILED, NOON, a_run_id, an_event_id
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

import ledger
from ledger import ANY, EXISTS, NO_RUN, Appended, Kind, Ledger, Outcome, RecordedEvent, exactly, unless_closed
from ledger.run.codec import shard_fence
from ledger.run.events import Annotated, Enqueued, LogAppended, RunEvent, ShardResultAppended, ShardRetried, Started
from ledger.run.state import RunState, as_run, fold, initial
from projections import Runs, rebuild, verify

KINDS = (
    Kind(name="test"),
    Kind(name="build", phases=("compile", "link"), failed_verdict_fails=True, attempts_max=3),
)
IS_CAMPAIGN = bool(os.environ.get("RUNFOLD_CAMPAIGN"))
SETTINGS = settings(
    max_examples=400 if IS_CAMPAIGN else 100,
    stateful_step_count=60 if IS_CAMPAIGN else 40,
    deadline=None,
    derandomize=not IS_CAMPAIGN,
    suppress_health_check=list(HealthCheck),
)
EVENT_ID = re.compile("event id [0-9a-f-]{36}")
"""Each ledger makes ids of its own where it is given none."""

Act = Callable[[Ledger, str], object]


class Clock:
    """Tells all ledgers one time."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


class Ledgers:
    """One ledger on each store, with one clock, kept over all examples: each has runs and keys of its own."""

    def __init__(self, logs: list[Ledger], clock: Clock) -> None:
        self.logs = logs
        self.clock = clock
        self.examples = count(1)


def shown(answer: object) -> object:
    """Give what must be equal of an answer: everything but positions and the ids that a ledger makes itself."""
    match answer:
        case Outcome(run_id=run_id, won=won, winner=winner):
            return run_id, won, shown(winner)
        case RecordedEvent():
            return answer.version, answer.type, answer.actor, answer.envelope.recorded_at, answer.data
        case Appended(run_id=run_id, version=version, positions=positions, is_duplicate=is_duplicate):
            assert list(positions) == sorted(set(positions))
            return run_id, version, len(positions), is_duplicate
        case RunState():
            return msgspec.structs.replace(answer, position=0)
        case list():
            return [shown(part) for part in answer]
        case _:
            return answer


workers = st.sampled_from(["w1", "w2"])
shards = st.sampled_from([0, 0, 1, 3])
attempts = st.none() | st.integers(min_value=1, max_value=3)
deltas = st.integers(min_value=-2, max_value=3)
texts = st.sampled_from(["boom", "two\nlines", "ä 😀", "x" * 700])
some_results = st.lists(
    st.fixed_dictionaries(
        {"status": st.sampled_from(["passed", "failed", "skipped", "warning"])},
        optional={"skipReason": st.sampled_from(["over_budget", "upstream_failed"]), "n": st.floats(-1e9, 1e9)},
    ),
    max_size=3,
)
known_ids = st.sampled_from([None, 1, 1, 2, 3])
some_events = st.lists(
    st.sampled_from(
        [
            Annotated(note="n", labels={"a": "1", "b": None}),
            LogAppended(lines=["l"]),
            ShardResultAppended(results=[{"status": "passed"}], shard=1, first_sequence=0),
            ShardRetried(shard=1, shard_attempt=2),
            Started(attempt=1, started_at=NOON, worker="w3"),
            Enqueued(kind="test", enqueued_at=NOON),
            COMPLETED,
            FAILED,
        ]
    ),
    min_size=1,
    max_size=3,
)
conditions = st.one_of(
    st.sampled_from([ANY, EXISTS, NO_RUN, unless_closed()]),
    st.integers(min_value=0, max_value=8).map(exactly),
    st.builds(unless_closed, shards.map(shard_fence), st.integers(min_value=1, max_value=3)),
)


class SameOnEveryStore(RuleBasedStateMachine):
    """Gives every command to all three ledgers."""

    def __init__(self, ledgers: Ledgers) -> None:
        super().__init__()
        self.ledgers = ledgers
        self.example = next(ledgers.examples)
        self.run = a_run_id(self.example * 0x10000)
        self.runs = [self.run]  # this first one is never enqueued
        self.made: set[str] = set()
        self.said: list[tuple[Act, str]] = []
        self.project = f"project {self.example}"
        ledgers.clock.now = NOON

    def id_of(self, number: int | None) -> str | None:
        return None if number is None else an_event_id(self.example * 1_000 + number)

    def same(self, act: Act, run_id: str | None = None) -> object:
        """Act on every ledger, and compare the answers and what the run is now."""
        run = run_id or self.run
        self.said.append((act, run))
        answers = []
        for log in self.ledgers.logs:
            try:
                answer: object = act(log, run)
            except ledger.LedgerError as error:
                answer = type(error), EVENT_ID.sub("event id …", str(error)), shown(getattr(error, "winner", None))
            answers.append(answer)
        first, *others = [shown(answer) for answer in answers]
        assert [first] * len(others) == others
        self.compare(run)
        return answers[0]

    def compare(self, run_id: str) -> None:
        histories = [[shown(event) for event in log.read(run_id)] for log in self.ledgers.logs]
        assert [histories[0]] * len(histories) == histories
        if histories[0]:
            self.made.add(run_id)
            assert list(range(1, len(histories[0]) + 1)) == [event[0] for event in histories[0]]  # type: ignore[index]
            states = [shown(log.state(run_id)) for log in self.ledgers.logs]
            assert [states[0]] * len(states) == states

    def teardown(self) -> None:
        """Compare what is left: folds from nothing, the order of the log, and the read models."""
        lists = []
        for log in self.ledgers.logs:
            runs = Runs(log)
            states = {run_id: log.state(run_id) for run_id in self.made}
            for run_id, state in states.items():
                assert fold(initial(run_id), log.read(run_id)) == state == runs.get(run_id)
            listed = runs.list(project=self.project, deleted="include", limit=1_000).runs
            # a run whose first event was appended without its project is in no project's list
            assert {run.run_id: run for run in listed} == {
                run_id: as_run(state) for run_id, state in states.items() if state.project == self.project
            }
            lists.append([msgspec.structs.replace(run, position=0) for run in listed])
        assert [lists[0]] * len(lists) == lists

    # --- asking for runs

    @initialize()
    def begin(self) -> None:
        """Begin with a run that is at work; beside it stands one that never was asked for."""
        self.enqueue(kind="test", shard_count=2, wait_s=None)
        self.start(worker="w1", event_id=None)

    @rule(
        kind=st.sampled_from(["test", "build"]),
        shard_count=st.none() | st.integers(min_value=1, max_value=3),
        total=st.none() | st.integers(min_value=0, max_value=5),
        attempts_max=st.none() | st.integers(min_value=1, max_value=3),
        wait_s=st.sampled_from([None, -60, 0, 60]),
        idempotency_key=st.sampled_from([None, None, "i1", "i2"]),
        exclusive_key=st.sampled_from([None, "x1"]),
        on_active=st.sampled_from(["reject", "return", "supersede"]),
        labels=st.none() | st.just({"b": "2", "a": "1"}),
    )
    def enqueue(self, wait_s: int | None, **facts: Any) -> None:
        run_id = a_run_id(self.example * 0x10000 + len(self.runs))
        not_before = None if wait_s is None else NOON + timedelta(seconds=wait_s)
        answer = self.same(
            lambda log, run: log.enqueue(run_id=run, not_before=not_before, project=self.project, **facts), run_id
        )
        if isinstance(answer, ledger.RunHandle):
            self.run = answer.id
            if answer.id not in self.runs:
                self.runs.append(answer.id)
        for made in self.made:
            self.compare(made)  # a superseded one has changed too

    @rule(kind=st.sampled_from(["test", "build"]))
    def enqueue_again(self, kind: str) -> None:
        self.same(lambda log, run: log.enqueue(kind, run_id=run, project=self.project))

    @rule(number=st.integers(min_value=0, max_value=9))
    def turn_to(self, number: int) -> None:
        """Go on with another run: what matters most happens when several things happen to one."""
        self.run = self.runs[number % len(self.runs)]

    @rule(back=st.integers(min_value=1, max_value=4))
    def repeat(self, back: int) -> None:
        """Say again, word for word, what was said before: the answer may have been lost."""
        if back <= len(self.said):
            self.same(*self.said[-back])

    @rule(seconds=st.sampled_from([1, 30, 90]))
    def wait(self, seconds: int) -> None:
        self.ledgers.clock.now += timedelta(seconds=seconds)

    # --- the life of a run

    @rule(worker=workers, event_id=known_ids)
    def start(self, worker: str, event_id: int | None) -> None:
        self.same(lambda log, run: log.start(run, worker=worker, event_id=self.id_of(event_id)))

    @rule(worker=workers)
    def start_or_resume(self, worker: str) -> None:
        self.same(lambda log, run: log.release(run))
        self.same(lambda log, run: log.start(run, worker=worker))
        self.same(lambda log, run: log.resume(run, worker=worker))

    @rule(phase=st.sampled_from(["compile", "link", "other"]))
    def enter_phase(self, phase: str) -> None:
        self.same(lambda log, run: log.enter_phase(run, phase))

    @rule(version=st.sampled_from(["1", "2"]))
    def resolve_version(self, version: str) -> None:
        self.same(lambda log, run: log.resolve_version(run, version))

    @rule(
        gate=st.sampled_from(["lint", "coverage"]),
        outcome=st.sampled_from(["passed", "failed", "blocked", "maybe"]),
        summary=st.none() | texts,
    )
    def finish_gate(self, gate: str, outcome: str, summary: str | None) -> None:
        self.same(lambda log, run: log.finish_gate(run, gate, outcome, summary=summary))

    @rule(error=texts, wait_s=st.sampled_from([None, 60]))
    def fail_attempt(self, error: str, wait_s: int | None) -> None:
        at = None if wait_s is None else self.ledgers.clock.now + timedelta(seconds=wait_s)
        self.same(lambda log, run: log.fail_attempt(run, error=error, retry_at=at))

    @rule()
    def interrupt(self) -> None:
        self.same(lambda log, run: log.interrupt(run, reason="lease lost"))

    @rule()
    def request_abort(self) -> None:
        self.same(lambda log, run: log.request_abort(run, reason="stop", deadline=NOON))

    @rule(worker=workers)
    def start_finalization(self, worker: str) -> None:
        self.same(lambda log, run: log.start_finalization(run, worker=worker))

    @rule(event_id=known_ids, actor=st.none() | workers)
    def complete(self, event_id: int | None, actor: str | None) -> None:
        self.same(lambda log, run: log.bind(actor=actor).complete(run, event_id=self.id_of(event_id)))

    @rule(error=texts, event_id=known_ids)
    def fail(self, error: str, event_id: int | None) -> None:
        self.same(lambda log, run: log.fail(run, error=error, event_id=self.id_of(event_id)))

    @rule(skipped=some_results, event_id=known_ids)
    def abort(self, skipped: list[Any], event_id: int | None) -> None:
        self.same(lambda log, run: log.abort(run, skipped=skipped, event_id=self.id_of(event_id)))

    @rule()
    def delete(self) -> None:
        self.same(lambda log, run: log.delete(run, reason="old"))

    @rule()
    def restore(self) -> None:
        self.same(lambda log, run: log.restore(run))

    @rule(from_bin=st.booleans(), events_at_once=st.sampled_from([2, 1_000]))
    def purge(self, from_bin: bool, events_at_once: int) -> None:
        """Erase in one step, or in many; a purge that only some of the stores begin would differ from then on."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ledger.limits.ERASE_EVENTS", events_at_once)
            self.same(lambda log, run: log.purge(run, reason="old", from_bin=from_bin))

    # --- what commutes

    @rule(
        results=some_results,
        shard=st.none() | shards,
        shard_attempt=st.integers(min_value=1, max_value=3),
        first_sequence=st.none() | st.integers(min_value=0, max_value=4),
        event_id=known_ids,
    )
    def append_results(self, results: list[Any], event_id: int | None, **facts: Any) -> None:
        self.same(lambda log, run: log.append_results(run, results, event_id=self.id_of(event_id), **facts))

    @rule(passed=deltas, failed=deltas, total=deltas, event_id=known_ids)
    def increment_stats(self, event_id: int | None, **deltas: int) -> None:
        self.same(lambda log, run: log.increment_stats(run, event_id=self.id_of(event_id), **deltas))

    @rule(lines=st.lists(texts, max_size=3), shard=st.none() | shards)
    def append_log(self, lines: list[str], shard: int | None) -> None:
        self.same(lambda log, run: log.append_log(run, lines, shard=shard))

    @rule(shard=st.none() | shards)
    def record_artifact(self, shard: int | None) -> None:
        self.same(lambda log, run: log.record_artifact(run, "trace", "s3://t", shard=shard))

    @rule(labels=st.sampled_from([{}, {"a": "3"}, {"a": None, "c": "ä"}]))
    def annotate(self, labels: dict[str, str | None]) -> None:
        self.same(lambda log, run: log.annotate(run, labels=labels))

    # --- shards

    @rule(shard=shards, shard_attempt=attempts)
    def complete_shard(self, shard: int, shard_attempt: int | None) -> None:
        self.same(lambda log, run: log.complete_shard(run, shard, shard_attempt=shard_attempt))

    @rule()
    def increment_shards_completed(self) -> None:
        self.same(lambda log, run: log.increment_shards_completed(run))

    @rule(shard=shards)
    def retry_shard(self, shard: int) -> None:
        self.same(lambda log, run: log.retry_shard(run, shard))

    # --- what few schedules would come to by chance

    @rule(shard=st.sampled_from([0, 1]), late_by=st.integers(min_value=0, max_value=1), results=some_results)
    def go_on_after_retry(self, shard: int, late_by: int, results: list[Any]) -> None:
        """A worker goes on with a shard that was handed to another one."""
        attempt = self.same(lambda log, run: log.retry_shard(run, shard))
        if isinstance(attempt, int) and attempt > late_by:
            mine = attempt - late_by
            self.same(lambda log, run: log.append_results(run, results, shard=shard, shard_attempt=mine))
            self.same(lambda log, run: log.complete_shard(run, shard, shard_attempt=mine))

    @rule(results=some_results, ends_by=st.sampled_from(["complete", "fail", "abort"]), event_id=known_ids)
    def go_on_after_the_end(self, results: list[Any], ends_by: str, event_id: int | None) -> None:
        """Writers at full speed are told by the ledger alone that the run has ended."""
        facts = {"error": "boom"} if ends_by == "fail" else {}
        self.same(lambda log, run: log.increment_stats(run, passed=1))
        self.same(lambda log, run: getattr(log, ends_by)(run, event_id=self.id_of(event_id), **facts))
        self.same(lambda log, run: log.increment_stats(run, passed=1))
        self.same(lambda log, run: log.append_results(run, results))

    # --- the low level, and the past

    @rule(events=some_events, when=conditions, first_id=known_ids)
    def append(self, events: list[RunEvent], when: Any, first_id: int | None) -> None:
        ids = None if first_id is None else [str(self.id_of(first_id + index)) for index in range(len(events))]
        self.same(lambda log, run: log.append(run, events, when=when, event_ids=ids))

    @rule(places=st.lists(st.integers(min_value=0, max_value=7), min_size=1, max_size=3), to_other=st.booleans())
    def append_recorded(self, places: list[int], to_other: bool) -> None:
        """Append again what the log has: in its order, in another, with something between, to another run."""

        def act(log: Ledger, run: str) -> Appended | None:
            history = [event for event in log.read(run) if event.data is not None]
            events = [history[place] for place in places if place < len(history)]
            ids = [event.event_id for event in events]
            target = self.runs[0] if to_other else run
            return log.append(target, [event.data for event in events], event_ids=ids) if events else None

        self.same(act)

    @rule(version=st.integers(min_value=0, max_value=12), seconds=st.integers(min_value=-1, max_value=90))
    def look_back(self, version: int, seconds: int) -> None:
        moment = NOON + timedelta(seconds=seconds)
        self.same(lambda log, run: log.state(run, at=version))
        self.same(lambda log, run: log.state(run, at=moment))
        self.same(lambda log, run: list(log.read(run, after_version=version, up_to=moment)))


@pytest.fixture(scope="module")
def ledgers(
    postgres_server: Any, postgres_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ledgers]:
    postgres = postgres_server.create_database(template=postgres_template)
    urls = ["memory:", f"sqlite:///{tmp_path_factory.mktemp('machine') / 'runs.db'}", postgres]
    clock = Clock()
    with ExitStack() as stack:
        yield Ledgers(
            [stack.enter_context(ledger.open(url, migrate=True, clock=clock, kinds=KINDS)) for url in urls], clock
        )
    postgres_server.drop_database(postgres)


@pytest.mark.timeout(7_200 if IS_CAMPAIGN else 300)
def test_every_command_on_every_store(ledgers: Ledgers) -> None:
    """Whatever is done in whatever order, the three stores answer alike and hold the same."""
    run_state_machine_as_test(lambda: SameOnEveryStore(ledgers), settings=SETTINGS)

    for log in ledgers.logs:
        folded_as_they_came = verify(log)
        rebuild(log)
        assert folded_as_they_came
        assert folded_as_they_came == verify(log)
    orders = [[(event.run_id, event.version) for event in log.read_all()] for log in ledgers.logs]
    assert len(orders[0]) > 100
    assert [orders[0]] * len(orders) == orders
