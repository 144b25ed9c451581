"""Rebuilding and verifying `runs`: the rows are a fold of the log, whatever becomes of them."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import ledger
from ledger import InvalidInput, Ledger, SchemaMismatch, Status, StoreBusy
from projections import Miscount, Runs, catch_up, lag, rebuild, verify
from projections.runs import StoredRun
from projections.stores import open_run_tables

NOON = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def a_run_id(number: int) -> str:
    return f"0192f3a0-0000-7000-8000-{number:012x}"


def record(log: Ledger, runs: int, *, first: int = 0) -> list[str]:
    """Record runs whose events lie between each other, so that no run's events stand together."""
    made = [a_run_id(first + number) for number in range(runs)]
    for number, run_id in enumerate(made):
        log.enqueue("test", run_id=run_id, project=f"p{number % 3}", shard_count=2, labels={"n": str(number % 2)})
    for run_id in made:
        log.start(run_id, worker="w1")
    for shard in (0, 1):
        for run_id in made:
            log.append_results(run_id, [{"status": "passed"}, {"status": "failed"}], shard=shard)
    for run_id in made[::2]:
        log.complete(run_id)
    return made


def stored(log: Ledger) -> list[StoredRun]:
    """Give every live row, whole."""
    generation = catch_up(log)
    return list(open_run_tables(log.store).scan(generation, after_run_id="", limit=1_000))


def generations(log: Ledger) -> set[int]:
    """Give the generations that have rows, up to 20, or counts."""
    tables = open_run_tables(log.store)
    found = {number for number in range(20) if tables.scan(number, after_run_id="", limit=1)}
    store: Any = log.store
    if store.url == "memory:":
        return found
    with store.writing() if store.url.startswith("sqlite") else store.transaction() as connection:
        schema = "" if store.url.startswith("sqlite") else "runfold."
        return found | {number for (number,) in connection.execute(f"SELECT generation FROM {schema}run_counts")}


def change_by_hand(log: Ledger, sql: str, in_memory: Any) -> None:
    """Change rows behind the ledger's back; `{runs}` stands for the table."""
    store: Any = log.store
    if store.url == "memory:":
        in_memory(store.tables["runs"])
    elif store.url.startswith("sqlite"):
        with store.writing() as connection:
            connection.execute(sql.replace("runfold.", ""))
    else:
        with store.transaction() as connection:
            connection.execute(sql)


@pytest.fixture(params=["large pages", "small pages"])
def page_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With small pages every run leaves memory and comes back several times."""
    if request.param == "small pages":
        for name, value in (("PAGE_EVENTS", 7), ("ROWS_HELD_MAX", 3), ("ROWS_WRITTEN_MAX", 2), ("ROWS_VERIFIED", 4)):
            monkeypatch.setattr(f"projections.projector.{name}", value)
    return str(request.param)


def test_rebuild_when_nothing_else_happens(log: Ledger, page_size: str) -> None:
    """Rebuilt rows are the bytes that catching up made, in a new generation; the old one is gone."""
    record(log, 12)
    before, generation = stored(log), catch_up(log)

    rebuilt = rebuild(log)

    assert before == stored(log)
    assert rebuilt > generation
    assert {rebuilt} == generations(log)
    assert verify(log)
    assert 12 == verify(log).checked


def test_rebuild_when_the_log_is_empty(log: Ledger) -> None:
    """An empty log gives an empty generation, which later appends fill."""
    rebuild(log)
    run = log.enqueue("test")

    assert [run.id] == [listed.run_id for listed in Runs(log).list().runs]
    assert verify(log)


def test_rebuild_when_it_tells_its_progress(log: Ledger, page_size: str) -> None:
    """Progress grows up to the head of the log."""
    made = record(log, 12)
    head = max(event.position for run_id in made for event in log.read(run_id))
    told: list[tuple[int, int]] = []

    rebuild(log, progress=lambda position, of: told.append((position, of)))

    assert sorted(told) == told
    assert (head, head) == told[-1]


def test_rebuild_when_a_thread_writes(log: Ledger, page_size: str) -> None:
    """Writers and readers go on during rebuilds: lists never lack a run, and at the end the rows are the log's fold."""
    record(log, 6)
    runs, done, written, shrunk = Runs(log), threading.Event(), [6], []

    def write() -> None:
        while not done.is_set() and written[0] < 200:
            run = log.enqueue("test")
            log.start(run.id, worker="w1")
            written[0] += 1

    def read() -> None:
        seen = 6
        while not done.is_set():
            count = runs.count()
            shrunk.extend([(seen, count)] if count < seen else [])
            seen = count

    threads = [threading.Thread(target=write), threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            rebuild(log)
    finally:
        done.set()
        for thread in threads:
            thread.join()

    assert [] == shrunk
    assert written[0] == runs.count()
    assert verify(log)
    assert 0 == lag(log).events_behind


@pytest.mark.owns
def test_rebuild_when_the_rows_and_their_checkpoint_were_thrown_away(log: Ledger) -> None:
    """The read model can be dropped at any moment: reads and rebuilds bring the same rows back."""
    record(log, 5)
    before = stored(log)
    change_by_hand(
        log, "DELETE FROM runfold.projections", lambda table: setattr(table, "checkpoint", type(table.checkpoint)())
    )
    by_reading = stored(log)
    change_by_hand(log, "DELETE FROM runfold.runs", lambda table: table.generations.clear())

    rebuild(log)

    assert before == by_reading
    assert before == stored(log)
    assert 1 == len(generations(log))


def test_rebuild_when_an_earlier_one_was_broken_off(log: Ledger, page_size: str) -> None:
    """What a rebuild left behind disturbs no reader, and the next rebuild takes it away."""
    record(log, 12)
    before = stored(log)

    def break_off(position: int, head: int) -> None:
        if position == head:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rebuild(log, progress=break_off)
    after = stored(log)
    rebuilt = rebuild(log)

    assert before == after
    assert before == stored(log)
    assert {rebuilt} == generations(log)


def test_rebuild_when_another_is_under_way(log: Ledger) -> None:
    """The second of two rebuilds is told to wait, and the first is not disturbed."""
    record(log, 3)
    refused: list[StoreBusy] = []

    def rebuild_again(position: int, head: int) -> None:
        with pytest.raises(StoreBusy) as refusal:
            rebuild(log)
        refused.append(refusal.value)

    rebuild(log, progress=rebuild_again)

    assert refused
    assert verify(log)
    assert rebuild(log)


def test_rebuild_when_the_name_is_unknown(log: Ledger) -> None:
    """A projection that does not exist is refused by name."""
    for call in (rebuild, verify, lag, catch_up):
        with pytest.raises(InvalidInput) as refusal:
            call(log, "walks")

        assert "name" == refusal.value.field


def test_verify_when_a_row_was_changed_by_hand(log: Ledger, page_size: str) -> None:
    """Verifying names the runs whose rows were changed, each of them and no other, and a rebuild mends them."""
    made = record(log, 6)
    catch_up(log)

    def in_memory(table: Any) -> None:
        rows = table.generations[table.checkpoint.generation]
        rows[made[1]] = rows[made[1]]._replace(status="failed")
        rows[made[4]] = rows[made[4]]._replace(version=2)

    change_by_hand(log, f"UPDATE runfold.runs SET status = 'failed' WHERE run_id = '{made[1]}'", in_memory)
    change_by_hand(log, f"UPDATE runfold.runs SET version = 2 WHERE run_id = '{made[4]}'", in_memory)

    found = verify(log)
    rebuild(log)

    assert not found
    assert ((), (), (made[1], made[4])) == found[1:4]
    assert verify(log)


def test_verify_when_a_row_is_missing_or_extra(log: Ledger, page_size: str) -> None:
    """Verifying names runs without a row, and rows without a run."""
    made, stranger = record(log, 6), a_run_id(0xFFFF)
    catch_up(log)

    def delete(table: Any) -> None:
        del table.generations[table.checkpoint.generation][made[2]]

    def rename(table: Any) -> None:
        rows = table.generations[table.checkpoint.generation]
        rows[stranger] = rows.pop(made[3])._replace(run_id=stranger)

    change_by_hand(log, f"DELETE FROM runfold.runs WHERE run_id = '{made[2]}'", delete)
    change_by_hand(log, f"UPDATE runfold.runs SET run_id = '{stranger}' WHERE run_id = '{made[3]}'", rename)

    found = verify(log)

    assert (5, (made[2], made[3]), (stranger,), ()) == found[:4]


def test_verify_when_a_label_was_changed_by_hand(log: Ledger) -> None:
    """Labels have rows of their own, which are verified with their run's."""
    made = record(log, 4)
    catch_up(log)

    def in_memory(table: Any) -> None:
        rows = table.generations[table.checkpoint.generation]
        rows[made[0]] = rows[made[0]]._replace(labels=(("n", "9"),))

    change_by_hand(log, f"UPDATE runfold.run_labels SET value = '9' WHERE run_id = '{made[0]}'", in_memory)

    assert (made[0],) == verify(log).differing


@pytest.mark.parametrize(
    ("change", "miscounts"),
    [
        ("SET count = 99 WHERE project = 'web'", [("web", "test", "queued", 99, 2)]),
        ("SET kind = 'x' WHERE project IS NULL", [(None, "test", "queued", 0, 1), (None, "x", "queued", 1, 0)]),
        ("SET count = 0 WHERE project IS NULL", [(None, "test", "queued", 0, 1)]),
    ],
)
def test_verify_when_a_count_was_changed_by_hand(shared_url: str, change: str, miscounts: list[Any]) -> None:
    """Counts that are not those of the rows are told, each as it is and as it should be, and a rebuild mends them."""
    with ledger.open(shared_url, migrate=True) as log:
        for project in ("web", "web", "api", None):
            log.enqueue("test", project=project)
        assert verify(log)
        change_by_hand(log, f"UPDATE runfold.run_counts {change}", None)

        found = verify(log)
        rebuild(log)

        assert not found
        assert (4, (), (), (), tuple(Miscount(*miscount) for miscount in miscounts)) == found
        assert verify(log)


def test_counts_when_others_write_meanwhile(shared_url: str) -> None:
    """Counts and rows are compared as of one moment: whoever folds and deletes meanwhile makes no difference."""
    with ledger.open(shared_url, migrate=True) as log:
        generation, tables, found = catch_up(log), open_run_tables(log.store), []

        def lives() -> None:
            for _ in range(15):
                run = log.enqueue("test", project="web").id
                catch_up(log)
                log.abort(run)
                log.delete(run)

        threads = [threading.Thread(target=lives) for _ in range(2)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            found.append(list(tables.miscounted(generation)))
        for thread in threads:
            thread.join()

        assert [] == [each for each in found if each]
        assert len(found) > 5
        assert verify(log)


def test_reads_when_another_release_folded_the_rows(log: Ledger) -> None:
    """Rows of another fold are not shown: lists say to rebuild, a single run is folded from its events."""
    made = record(log, 3)
    catch_up(log)
    change_by_hand(
        log,
        "UPDATE runfold.projections SET version = 0",
        lambda table: setattr(table, "checkpoint", table.checkpoint._replace(version=0)),
    )

    with pytest.raises(SchemaMismatch, match="rebuild"):
        Runs(log).list()
    alone = Runs(log).get(made[0]).status
    rebuild(log)

    assert Status.COMPLETED == alone
    assert 3 == Runs(log).count()


def test_rows_when_two_databases_hold_the_same_log(ledger_url: str) -> None:
    """The same commands at the same times give the same bytes on every store."""

    def clock() -> datetime:
        return now[0]

    now, kept = [NOON], []
    for url in ("memory:", ledger_url):
        now[0] = NOON
        with ledger.open(url, clock=clock, migrate=True) as log:
            made = record(log, 5)
            now[0] += timedelta(seconds=90.5)
            log.annotate(made[1], labels={"näme": "wért \U0001f600", "n": None})
            log.fail(made[3], error="it broke\nbadly")
            log.abort(made[1], skipped=[{"status": "skipped"}])
            log.delete(made[0])
            kept.append((stored(log), [event.position for event in log.read_all()]))

    assert kept[0][1] == kept[1][1], "the two logs differ, so their rows must"
    assert kept[0][0] == kept[1][0]
