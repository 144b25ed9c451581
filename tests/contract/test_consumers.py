"""Named consumers: each event at least once, a run's in order, whoever shares the work, on every store alike."""

import random
import threading
import time
from collections import defaultdict
from contextlib import suppress

import pytest

import ledger
from ledger import limits
from ledger.consumers import partition_of
from ledger.errors import BatchLost, ConsumerDiffers, ConsumerNotFound, InvalidInput
from ledger.events import RunId


def write(log: ledger.Ledger, runs: int = 3, lines: int = 2, **facts: object) -> list[str]:
    made = [log.enqueue("test", **facts).id for _ in range(runs)]  # type: ignore[arg-type]
    for number in range(lines):
        for run_id in made:
            log.append_log(run_id, [f"line {number}"])
    return made


def positions(log: ledger.Ledger) -> list[int]:
    return [event.position for event in log.read_all()]


def drain(consumer: ledger.Consumer, *, limit: int = 3) -> list[int]:
    """Fetch and acknowledge until nothing comes."""
    seen: list[int] = []
    while (batch := consumer.fetch(limit=limit)) is not None:
        assert len(batch.events) <= limit
        seen += [event.position for event in batch.events]
        assert consumer.acknowledge(batch)
    return seen


def test_consumer_when_read_to_the_end(log: ledger.Ledger) -> None:
    """Batches follow each other in the order of the log, and the checkpoint is kept by name."""
    write(log)
    expected = positions(log)

    seen = drain(log.consumer("billing"))
    again = log.consumer("billing").fetch()
    write(log, runs=1, lines=0)
    later = drain(log.find_consumer("billing"))

    assert expected == seen
    assert again is None
    assert positions(log)[-1:] == later
    status = log.find_consumer("billing").status()
    assert (0, None, 0) == (status.events_behind_max, status.behind_since, status.lent)


def test_consumer_when_it_begins_with_what_comes(log: ledger.Ledger) -> None:
    """A consumer that begins now is given nothing of before."""
    write(log)
    consumer = log.consumer("late", after=None)

    assert consumer.fetch() is None
    write(log, runs=1, lines=1)
    assert positions(log)[-2:] == drain(consumer)


def test_consumer_when_the_loan_goes_on(log: ledger.Ledger) -> None:
    """While one reader has the batch of the only partition, another gets nothing."""
    write(log)
    mine = log.consumer("one").fetch(limit=2)

    assert log.consumer("one").fetch() is None
    assert mine is not None
    assert 1 == log.find_consumer("one").status().lent
    assert log.consumer("one").acknowledge(mine)
    assert log.consumer("one").fetch() is not None


def test_consumer_when_the_loan_is_over(log: ledger.Ledger) -> None:
    """A batch whose loan is over goes to another, and the first reader can neither acknowledge nor keep it."""
    write(log)
    consumer = log.consumer("one")
    lost = consumer.fetch(limit=2, lease_s=limits.LEASE_S_MIN)
    assert lost is not None
    time.sleep(limits.LEASE_S_MIN * 2)
    again = consumer.fetch(limit=2)

    assert again is not None
    assert (lost.events, lost.token + 1) == (again.events, again.token)
    for use in (consumer.acknowledge, consumer.extend, consumer.hand_back):
        with pytest.raises(BatchLost, match="not yours any more"):
            use(lost)
    assert consumer.acknowledge(again)


def test_acknowledge_when_late_and_nobody_else_came(log: ledger.Ledger) -> None:
    """A loan that is over and was not handed on can still be acknowledged: nobody has seen the batch since."""
    write(log)
    consumer = log.consumer("one")
    batch = consumer.fetch(lease_s=limits.LEASE_S_MIN)
    assert batch is not None
    time.sleep(limits.LEASE_S_MIN * 2)

    assert consumer.acknowledge(batch)
    assert consumer.fetch() is None


def test_acknowledge_when_repeated(log: ledger.Ledger) -> None:
    """Acknowledging twice changes nothing, also when somebody has fetched the next batch in between."""
    write(log)
    consumer = log.consumer("one")
    batch = consumer.fetch(limit=2)
    assert batch is not None

    assert consumer.acknowledge(batch)
    assert not consumer.acknowledge(batch)
    following = consumer.fetch(limit=2)
    assert not consumer.acknowledge(batch)
    assert following is not None
    assert following.after == batch.up_to


def test_extend_when_in_time(log: ledger.Ledger) -> None:
    """A loan that is kept goes on past its first deadline."""
    write(log)
    consumer = log.consumer("one")
    batch = consumer.fetch(lease_s=limits.LEASE_S_MIN * 5)
    assert batch is not None
    consumer.extend(batch, lease_s=60)
    time.sleep(limits.LEASE_S_MIN * 6)

    assert consumer.fetch() is None
    assert consumer.acknowledge(batch)


def test_hand_back_when_undone(log: ledger.Ledger) -> None:
    """A batch that is handed back goes to the next at once, and is not the first one's any more."""
    write(log)
    consumer = log.consumer("one")
    batch = consumer.fetch(limit=2)
    assert batch is not None
    consumer.hand_back(batch)

    again = consumer.fetch(limit=2)
    assert again is not None
    assert batch.events == again.events
    with pytest.raises(BatchLost):
        consumer.acknowledge(batch)


def test_reset_when_a_batch_is_out(log: ledger.Ledger) -> None:
    """After a reset the log begins again, and batches from before move nothing."""
    write(log)
    consumer = log.consumer("one")
    drain(consumer)
    write(log, runs=1)
    out = consumer.fetch()
    assert out is not None
    consumer.reset()

    with pytest.raises(BatchLost):
        consumer.acknowledge(out)
    assert positions(log) == drain(consumer)
    consumer.reset(after=positions(log)[2])
    assert positions(log)[3:] == drain(consumer)
    consumer.reset(after=None)
    assert [] == drain(consumer)


def test_consumer_when_removed_and_made_anew(log: ledger.Ledger) -> None:
    """A removed consumer is not there; a batch of it is worth nothing to a new one of its name."""
    write(log)
    consumer = log.consumer("one")
    old = consumer.fetch()
    assert old is not None
    consumer.remove()

    for use in (consumer.fetch, consumer.remove, consumer.reset, consumer.status, lambda: log.find_consumer("one")):
        with pytest.raises(ConsumerNotFound):
            use()
    time.sleep(0.002)
    fresh = log.consumer("one")
    new = fresh.fetch()
    assert new is not None
    with pytest.raises(BatchLost):
        fresh.acknowledge(old)


def test_consumer_when_asked_for_otherwise(log: ledger.Ledger) -> None:
    """A consumer's filter and partitions never change: another wish is refused, the same one opens it."""
    made = log.consumer("one", types=["failed", "completed"], projects=["web"], labels={"env": "ci"}, partitions=2)

    same = log.consumer("one", types=["completed", "failed"], projects=["web"], labels={"env": "ci"}, partitions=2)
    assert made.settings == same.settings
    for wish in ({}, {"types": ["failed"]}, {"partitions": 3}):
        with pytest.raises(ConsumerDiffers):
            log.consumer("one", **wish)  # type: ignore[arg-type]
    assert ["one"] == [each.name for each in log.consumers()]


@pytest.mark.parametrize(
    ("facts", "field"),
    [
        ({"name": ""}, "consumer"),
        ({"name": "a/b"}, "consumer"),
        ({"name": "-a"}, "consumer"),
        ({"name": "a" * (limits.CONSUMER_NAME_CHARS_MAX + 1)}, "consumer"),
        ({"partitions": 0}, "partitions"),
        ({"partitions": limits.PARTITIONS_MAX + 1}, "partitions"),
        ({"types": "failed"}, "types"),
        ({"after": -1}, "after"),
    ],
)
def test_consumer_when_something_is_none(log: ledger.Ledger, facts: dict[str, object], field: str) -> None:
    """What cannot be is refused before anything is kept, and says where."""
    with pytest.raises(InvalidInput) as refusal:
        log.consumer(**{"name": "fine", **facts})  # type: ignore[arg-type]

    assert field == refusal.value.field
    assert [] == log.consumers()


@pytest.mark.parametrize(
    "given", [{"limit": 0}, {"limit": limits.BATCH_EVENTS_MAX + 1}, {"lease_s": 0.0}, {"wait_s": -1}, {"wait_s": 31}]
)
def test_fetch_when_something_is_none(log: ledger.Ledger, given: dict[str, float]) -> None:
    """Limits hold at one past them."""
    write(log, runs=1)

    with pytest.raises(InvalidInput):
        log.consumer("one").fetch(**given)  # type: ignore[arg-type]
    assert 0 == log.find_consumer("one").status().lent


def test_consumer_when_filtered(log: ledger.Ledger) -> None:
    """Types, kind, projects and labels narrow what is given."""
    wanted = write(log, runs=1, project="web", labels={"env": "ci"})[0]
    write(log, runs=1, project="web", labels={"env": "prod"})
    write(log, runs=1, project="api", labels={"env": "ci"})
    write(log, runs=1, labels={"env": "ci"})
    consumer = log.consumer("one", kind="test", projects=["web"], labels={"env": "ci"}, types=["log_appended"])

    batch = consumer.fetch()

    assert batch is not None
    assert [wanted, wanted] == [event.run_id for event in batch.events]
    assert {"log_appended"} == {event.type for event in batch.events}
    assert consumer.acknowledge(batch)
    assert consumer.fetch() is None
    assert 0 == consumer.status().events_behind_max


@pytest.mark.erases
def test_consumer_when_a_run_was_purged(log: ledger.Ledger) -> None:
    """The events of a purged run are given without their data, to those who filter by its project as well."""
    purged = write(log, runs=1, project="web")[0]
    write(log, runs=1, project="api")
    log.abort(purged)
    log.delete(purged)
    log.purge(purged)

    batch = log.consumer("one", projects=["web"], types=["log_appended"]).fetch()

    assert batch is not None
    assert [(purged, None), (purged, None)] == [(event.run_id, event.data) for event in batch.events]


@pytest.mark.erases
def test_labels_when_a_run_was_purged(shared_url: str) -> None:
    """Labels end with a purge: a process that remembers them and one that does not give `purged`, and nothing else."""
    with ledger.open(shared_url, migrate=True) as log:
        had, others, kept = (write(log, runs=1, labels={"env": env}, project="web")[0] for env in ("ci", "prod", "ci"))
        elsewhere = write(log, runs=1, labels={"env": "ci"}, project="api")[0]
        before = log.consumer("before", labels={"env": "ci"}).fetch()
        for run in (had, others, elsewhere):
            log.abort(run)
            log.purge(run, from_bin=False)

        def given(opened: ledger.Ledger, name: str, **wanted: object) -> list[tuple[str, str]]:
            batch = opened.consumer(name, labels={"env": "ci"}, projects=["web"], **wanted).fetch()  # type: ignore[arg-type]
            return [] if batch is None else [(event.run_id, event.type) for event in batch.events]

        remembered = given(log, "old")
        with ledger.open(shared_url) as fresh:
            read = given(fresh, "new")
            assert [] == given(fresh, "typed", types=["aborted"])

    assert before is not None
    assert {had, kept, elsewhere} == {event.run_id for event in before.events}
    of_kept = [(kept, "enqueued"), (kept, "log_appended"), (kept, "log_appended")]
    assert [*of_kept, (had, "purged"), (others, "purged")] == remembered == read


def test_fetch_when_much_is_not_wanted(log: ledger.Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """None means the log's end: a batch is found behind more pages than one look reads, the last of them too."""
    monkeypatch.setattr("ledger.limits.PAGE_EVENTS", 2)
    monkeypatch.setattr("ledger.limits.BATCH_PAGES_MAX", 3)
    [run] = write(log, runs=1, lines=20)
    log.abort(run)
    one, cut = (log.consumer(name, types=["aborted"], partitions=4) for name in ("one", "cut"))

    batch = one.fetch()

    assert batch is not None
    assert [(run, "aborted")] == [(event.run_id, event.type) for event in batch.events]
    assert one.acknowledge(batch)
    assert one.fetch() is None
    assert positions(log)[-1] == one.position()
    search = cut.search()
    assert (None, True) == (search.look(), search.has_more)
    search.pass_over()
    assert positions(log)[5] == cut.position()


def test_fetch_when_nothing_is_wanted(log: ledger.Ledger) -> None:
    """What nobody wants is passed over once: the checkpoint is behind it although nothing was acknowledged."""
    write(log)
    consumer = log.consumer("one", types=["purged"])

    assert consumer.fetch() is None
    assert positions(log)[-1] == consumer.status().position


def test_fetch_when_it_waits(log: ledger.Ledger) -> None:
    """A reader that waits is given what comes while it does."""
    consumer = log.consumer("one")
    writing = threading.Timer(0.3, write, (log,), {"runs": 1, "lines": 0})
    writing.start()
    began = time.monotonic()

    batch = consumer.fetch(wait_s=20)

    writing.join()
    assert batch is not None
    assert 0.2 < time.monotonic() - began < 10


class Reader(threading.Thread):
    """A reader that hands back, dies with its batch, dawdles past its loan, or does its work: as chance has it."""

    def __init__(self, consumer: ledger.Consumer, *, seed: int) -> None:
        super().__init__(daemon=True)
        self.fetched = 0
        self.acknowledged: list[ledger.Batch] = []
        self.ends = threading.Event()
        self._consumer = consumer
        self._chance = random.Random(seed)

    def run(self) -> None:
        while not (self.ends.is_set() and self._consumer.status().events_behind_max == 0):
            batch = self._consumer.fetch(limit=self._chance.randint(1, 20), lease_s=0.2, wait_s=0.02)
            if batch is not None:
                self.fetched += 1
                with suppress(BatchLost):
                    self._use(batch, self._chance.random())

    def _use(self, batch: ledger.Batch, fate: float) -> None:
        if fate < 0.1:
            self._consumer.hand_back(batch)
        elif fate > 0.2 and self.fetched > 1:  # the first one dies with it, so that each run of this has that
            time.sleep(0.25 if fate > 0.95 else 0)
            if self._consumer.acknowledge(batch):
                self.acknowledged.append(batch)


@pytest.mark.parametrize("partitions", [1, 4])
def test_consumer_when_readers_compete(log: ledger.Ledger, partitions: int) -> None:
    """Readers that die, dawdle and compete while writers go on: the batches that were acknowledged have each event
    once, and a run's in order."""
    consumer = log.consumer("shared", partitions=partitions)
    readers = [Reader(consumer, seed=seed) for seed in range(4)]
    for reader in readers:
        reader.start()
    for _ in range(5):
        write(log, runs=4, lines=6)
    for reader in readers:
        reader.ends.set()
    for reader in readers:
        reader.join(60)

    batches = sorted((each for reader in readers for each in reader.acknowledged), key=lambda each: each.token)
    assert positions(log) == sorted(event.position for batch in batches for event in batch.events)
    assert sum(reader.fetched for reader in readers) > len(batches)
    versions: dict[str, list[int]] = defaultdict(list)
    for event in (event for batch in batches for event in batch.events):
        versions[event.run_id].append(event.version)
    assert all(found == sorted(found) for found in versions.values())
    assert {partition_of(RunId(run_id), partitions) for run_id in versions} == {batch.partition for batch in batches}


def test_partitions_when_readers_hold_one_each(log: ledger.Ledger) -> None:
    """As many readers as partitions have a batch at once; no run is in two of them, and one more reader gets none."""
    write(log, runs=40, lines=1)
    consumer = log.consumer("shared", partitions=3)

    batches = [consumer.fetch(limit=1_000) for _ in range(4)]

    held = [batch for batch in batches if batch is not None]
    assert [0, 1, 2] == sorted(batch.partition for batch in held)
    assert batches[-1] is None
    runs = [{event.run_id for event in batch.events} for batch in held]
    assert 40 == sum(len(each) for each in runs) == len(set.union(*runs))
