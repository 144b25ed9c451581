"""Rebuilding and verifying the projections with many rows a run, as `runs` is."""

import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import ledger
from ledger import Ledger, SchemaMismatch, StoreBusy
from projections import PROJECTIONS, Documents, Results, Timings, catch_up, lag, rebuild, verify
from projections.details import StoredDetails
from projections.stores import open_document_tables, open_result_tables, open_timing_tables

pytestmark = pytest.mark.erases

NOON = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
OPEN: dict[str, Callable[[Any], Any]] = {
    "results": open_result_tables,
    "documents": open_document_tables,
    "timings": open_timing_tables,
}


@pytest.fixture(params=list(OPEN))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["large pages", "small pages"])
def page_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With small pages every run leaves memory and comes back several times, and few details are held."""
    if request.param == "small pages":
        sizes = {"PAGE_EVENTS": 7, "ROWS_HELD_MAX": 3, "ROWS_WRITTEN_MAX": 2, "ROWS_VERIFIED": 2, "DETAILS_HELD_MAX": 4}
        for constant, value in sizes.items():
            monkeypatch.setattr(f"projections.projector.{constant}", value)
        for database in ("sqlite", "postgres"):
            monkeypatch.setattr(f"projections.stores.{database}_details.DETAILS_SCANNED_MAX", 3)
    return str(request.param)


def a_run_id(number: int) -> str:
    return f"0192f3a0-0000-7000-8000-{number:012x}"


def record(log: Ledger, runs: int, *, first: int = 0) -> list[str]:
    """Record runs whose events lie between each other, with all that makes details come and go."""
    made = [a_run_id(first + number) for number in range(runs)]
    for number, run_id in enumerate(made):
        log.enqueue("test", run_id=run_id, project=f"p{number % 2}", shard_count=2, attempts_max=3)
        log.append_results(run_id, [{"status": "skipped", "skipReason": "over_budget", "testId": "T-0"}])
    for run_id in made:
        log.start(run_id, worker="w1")
        log.enter_phase(run_id, "first")
    for shard in (0, 1):
        for number, run_id in enumerate(made):
            log.append_results(
                run_id,
                [{"status": "passed", "testId": f"T-{shard}", "durationMs": number}, {"status": "failed"}],
                shard=shard,
            )
            log.record_document(run_id, "plan", {"shard": shard})
            log.complete_shard(run_id, shard)
    for run_id in made[1::3]:
        log.retry_shard(run_id, 1)
        log.append_results(run_id, [{"status": "passed", "testId": "T-1"}], shard=1, shard_attempt=2)
    for run_id in made[2::3]:
        log.fail_attempt(run_id, error="oom")
        log.start(run_id, worker="w2")
        log.append_results(run_id, [{"status": "passed", "testId": "T-2"}], shard=0)
    for run_id in made[::2]:
        log.complete(run_id)
    for run_id in made[::4]:
        log.delete(run_id)
    for run_id in made[::8]:
        log.purge(run_id)
    return made


def stored(log: Ledger, name: str) -> list[StoredDetails]:
    """Give every live row, whole."""
    generation, found = catch_up(log, name), []
    tables = OPEN[name](log.store)
    while rows := tables.scan(generation, after_run_id=found[-1].run_id if found else "", limit=3):
        found += rows
    return found


def generations(log: Ledger, name: str) -> set[int]:
    tables = OPEN[name](log.store)
    return {number for number in range(20) if tables.scan(number, after_run_id="", limit=1)}


def change_by_hand(log: Ledger, sql: str, in_memory: Callable[[Any], None], name: str) -> None:
    """Change rows behind the ledger's back."""
    store: Any = log.store
    if store.url == "memory:":
        in_memory(store.tables[name])
    elif store.url.startswith("sqlite"):
        with store.writing() as connection:
            connection.execute(sql.replace("runfold.", ""))
    else:
        with store.transaction() as connection:
            connection.execute(sql)


def test_projections_when_they_are_named() -> None:
    """Every projection is caught up, rebuilt and verified by its name."""
    assert {"runs", *OPEN} == set(PROJECTIONS)


def test_rebuild_when_rows_were_caught_up_bit_by_bit(log: Ledger, name: str, page_size: str) -> None:
    """Rebuilt rows are the bytes that catching up made, headers and details, in a new generation."""
    record(log, 4)
    catch_up(log, name)
    record(log, 5, first=4)
    before, generation = stored(log, name), catch_up(log, name)

    rebuilt = rebuild(log, name)

    assert before == stored(log, name)
    assert 9 == len(before)
    assert any(row.rows for row in before)
    assert rebuilt > generation
    assert {rebuilt} == generations(log, name)
    assert verify(log, name)
    assert 9 == verify(log, name).checked
    assert 0 == lag(log, name).events_behind


def test_rebuild_when_the_log_is_empty(log: Ledger, name: str) -> None:
    """An empty log gives an empty generation, which later appends fill."""
    rebuild(log, name)
    run_id = log.enqueue("test").id

    assert [run_id] == [row.run_id for row in stored(log, name)]
    assert verify(log, name)


def test_rebuild_when_a_thread_writes(log: Ledger, name: str, page_size: str) -> None:
    """Writers and readers go on during rebuilds, no reader sees less than before, and at the end all is equal."""
    (run_id, *_) = record(log, 2, first=1)
    busy = log.enqueue("test", shard_count=1).id
    log.start(busy, worker="w1")
    done, shrunk, written = threading.Event(), [], [0]
    reads: dict[str, Callable[[], int]] = {
        "results": lambda: len(Results(log).of_run(busy).results),
        "documents": lambda: len(Documents(log).of_run(busy)),
        "timings": lambda: len(Timings(log).of_run(busy).phases),
    }

    def write() -> None:
        while not done.is_set() and written[0] < 150:
            log.append_results(busy, [{"status": "passed", "testId": f"T{written[0]}"}], shard=0)
            log.record_document(busy, f"d{written[0]}", written[0])
            log.enter_phase(busy, f"p{written[0]}")
            written[0] += 1

    def read() -> None:
        seen = 0
        while not done.is_set():
            count = reads[name]()
            shrunk.extend([(seen, count)] if count < seen else [])
            seen = count

    threads = [threading.Thread(target=write), threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            rebuild(log, name)
    finally:
        done.set()
        for thread in threads:
            thread.join()

    assert [] == shrunk
    assert written[0] == reads[name]()
    assert verify(log, name)
    assert run_id


@pytest.mark.owns
def test_rebuild_when_the_rows_were_thrown_away(log: Ledger, name: str) -> None:
    """The read model can be dropped at any moment; another one's checkpoint stays as it is."""
    record(log, 5)
    before, runs = stored(log, name), catch_up(log)
    change_by_hand(
        log,
        f"DELETE FROM runfold.projections WHERE name = '{name}'",
        lambda table: setattr(table, "checkpoint", type(table.checkpoint)()),
        name,
    )

    by_reading = stored(log, name)
    rebuild(log, name)

    assert before == by_reading == stored(log, name)
    assert 1 == len(generations(log, name))
    assert runs == catch_up(log)


def test_rebuild_when_an_earlier_one_was_broken_off(log: Ledger, name: str, page_size: str) -> None:
    """What a rebuild left behind disturbs no reader, and the next rebuild takes it away, details too."""
    record(log, 6)
    before = stored(log, name)

    def break_off(position: int, head: int) -> None:
        if position == head:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rebuild(log, name, progress=break_off)
    after = stored(log, name)
    rebuilt = rebuild(log, name)

    assert before == after == stored(log, name)
    assert {rebuilt} == generations(log, name)


def test_rebuild_when_another_is_under_way(log: Ledger, name: str) -> None:
    """The second of two rebuilds of a projection is told to wait; one of another projection is not."""
    record(log, 2)

    def rebuild_again(position: int, head: int) -> None:
        with pytest.raises(StoreBusy, match=name):
            rebuild(log, name)
        assert rebuild(log, "runs")

    rebuild(log, name, progress=rebuild_again)

    assert verify(log, name)


CHANGES = {
    "results": "UPDATE runfold.results SET status = 'lost' WHERE run_id = '{run}' AND number = 1",
    "documents": "UPDATE runfold.documents SET is_empty = 1 WHERE run_id = '{run}'",
    "timings": "UPDATE runfold.timings SET worker = 'nobody' WHERE run_id = '{run}' AND part = 2",
}


LAST = "run_id = '{run}' AND number = (SELECT max(number) FROM runfold.{table} WHERE run_id = '{run}')"


def test_verify_when_details_were_changed_by_hand(log: Ledger, name: str, page_size: str) -> None:
    """Verifying names the runs of which a detail was changed, is missing, or is too much; a rebuild mends them."""
    made = record(log, 6)
    catch_up(log, name)

    def change(table: Any) -> None:
        kept = table.generations[table.checkpoint.generation][made[1]]
        number = max(kept.rows)
        kept.rows[number] = (*kept.rows[number][:-1], b"other")

    def delete(table: Any) -> None:
        kept = table.generations[table.checkpoint.generation][made[3]]
        del kept.rows[max(kept.rows)]

    def double(table: Any) -> None:
        kept = table.generations[table.checkpoint.generation][made[5]]
        number = max(kept.rows)
        kept.rows[99_999] = (99_999, *kept.rows[number][1:])

    delete_last = f"DELETE FROM runfold.{name} WHERE {LAST}"
    move_last = f"UPDATE runfold.{name} SET number = 99999 WHERE {LAST}"
    change_by_hand(log, CHANGES[name].format(run=made[1]), change, name)
    change_by_hand(log, delete_last.format(table=name, run=made[3]), delete, name)
    change_by_hand(log, move_last.format(table=name, run=made[5]), double, name)

    found = verify(log, name)
    rebuild(log, name)

    assert ((), (), (made[1], made[3], made[5]), ()) == found[1:]
    assert verify(log, name)


def test_reads_when_another_release_folded_the_rows(log: Ledger, name: str) -> None:
    """Rows of another fold are not shown; the error says to rebuild which."""
    record(log, 1, first=1)
    catch_up(log, name)
    change_by_hand(
        log,
        f"UPDATE runfold.projections SET version = 0 WHERE name = '{name}'",
        lambda table: setattr(table, "checkpoint", table.checkpoint._replace(version=0)),
        name,
    )

    with pytest.raises(SchemaMismatch, match=f"rebuild {name}"):
        catch_up(log, name)
    rebuild(log, name)

    assert verify(log, name)


def test_rows_when_two_databases_hold_the_same_log(ledger_url: str, name: str) -> None:
    """The same commands at the same times give the same bytes on every store."""
    kept = []
    for url in ("memory:", ledger_url):
        now = [NOON]
        with ledger.open(url, clock=lambda now=now: now[0], migrate=True) as log:  # type: ignore[misc]
            made = record(log, 6)
            now[0] += timedelta(seconds=90.5)
            log.append_results(made[1], [{"testId": "näme \U0001f600", "status": "passed", "durationMs": 0.1234567}])
            log.record_document(made[1], "dökument", {"z": 1, "a": [0.1, 1e300, -0.0]})
            log.abort(made[3], skipped=[{"status": "skipped", "testId": "T"}])
            kept.append((stored(log, name), [event.position for event in log.read_all()]))

    assert kept[0][1] == kept[1][1], "the two logs differ, so their rows must"
    assert kept[0][0] == kept[1][0]


_APPEND_AND_READ = """
import sys
import ledger
from projections import Results, rebuild

with ledger.open(sys.argv[1]) as log:
    results = Results(log)
    for number in range(12):
        test_id = f"{sys.argv[3]}-{number}"
        log.append_results(sys.argv[2], [{"testId": test_id, "status": "passed"}], shard=int(sys.argv[3]))
        found = results.latest(test_id)
        assert found is not None and found.run_id == sys.argv[2], test_id
        if number == 6:
            try:
                rebuild(log, "results")
            except ledger.StoreBusy:
                pass
"""


def test_results_when_several_processes_append_read_and_rebuild(shared_url: str) -> None:
    """Each process finds what it appended at once, and in the end every result is there once."""
    with ledger.open(shared_url, migrate=True) as log:
        run = log.enqueue("test", shard_count=3).id
        log.start(run, worker="w1")
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", _APPEND_AND_READ, shared_url, run, str(shard)], stderr=subprocess.PIPE
            )
            for shard in range(3)
        ]
        errors = [process.communicate(timeout=120)[1].decode() for process in processes]
        found = [result.test_id for result in Results(log).all_of_run(run)]

        assert ["", "", ""] == errors
        assert [0, 0, 0] == [process.returncode for process in processes]
        assert sorted(f"{shard}-{number}" for shard in range(3) for number in range(12)) == sorted(map(str, found))
        assert verify(log, "results")
