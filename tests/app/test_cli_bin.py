"""`runfold delete`, `restore` and `purge`, as a user types them."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from command_line import runfold, runfold_on_terminal

import ledger
from projections import Runs


@pytest.fixture
def log(tmp_path: Path) -> Iterator[ledger.Ledger]:
    """The ledger that commands in `tmp_path` find by themselves."""
    with ledger.open(f"sqlite:///{tmp_path / '.runfold' / 'runs.db'}") as opened:
        yield opened


def a_finished_run(log: ledger.Ledger, *, days_ago: int = 0, kind: str = "test", **facts: Any) -> str:
    run = log.enqueue(kind, **{"project": "web", **facts})
    log.start(run.id, worker="w1")
    log.append_log(run.id, ["secret"])
    log.complete(run.id, finished_at=datetime.now(UTC) - timedelta(days=days_ago))
    return run.id


def an_old_run(log: ledger.Ledger, days: int, **facts: Any) -> str:
    """Record a run that was created and finished some days ago."""
    then = datetime.now(UTC) - timedelta(days=days)
    with ledger.open(log.store.url, clock=lambda: then) as past:
        return a_finished_run(past, days_ago=days, **facts)


def bins(log: ledger.Ledger) -> tuple[set[str], set[str], set[str]]:
    """Give the runs that lists show, those in the bin, and those that were purged."""
    words: tuple[Any, ...] = ("exclude", "only", "purged")
    exclude, only, purged = ({run.run_id for run in Runs(log).list(deleted=word).runs} for word in words)
    return exclude, only, purged


# --- delete and restore -------------------------------------------------------------------------------------------


def test_delete_and_restore_when_told(tmp_path: Path, log: ledger.Ledger) -> None:
    """Runs go into the bin and come out of it, each with the event that did it."""
    first, second = a_finished_run(log), a_finished_run(log)

    deleted = runfold("delete", first, second, "--reason", "wrong", folder=tmp_path)
    in_bin = runfold("list", "--deleted", folder=tmp_path)
    again = runfold("delete", first, folder=tmp_path)
    restored = runfold("restore", "-", folder=tmp_path, stdin=in_bin.out)

    events = {event.event_id: event for event in log.read(first)}
    assert [[first, "5", "deleted"], [second, "5", "deleted"]] == [[row[0], row[1], row[3]] for row in deleted.rows]
    assert ("ada", "wrong") == (events[deleted.rows[0][2]].actor, events[deleted.rows[0][2]].data.reason)  # type: ignore[union-attr]
    assert [[first, "5", "", "unchanged"]] == again.rows
    assert {"restored"} == {row[3] for row in restored.rows}
    assert ({first, second}, set(), set()) == bins(log)


def test_delete_when_a_run_is_active(tmp_path: Path, log: ledger.Ledger) -> None:
    """An active run is refused; the others have their turn."""
    active, done = log.enqueue("test").id, a_finished_run(log)

    refused = runfold("delete", active, done, folder=tmp_path)

    assert (5, [done]) == (refused.code, [row[0] for row in refused.rows])
    assert "an active run cannot go to the bin" in refused.err


def test_project_when_deleted_and_restored(tmp_path: Path, log: ledger.Ledger) -> None:
    """A project goes into the bin as a whole, and what went with it comes back."""
    early, later, other = a_finished_run(log), a_finished_run(log), a_finished_run(log, project="api")
    log.delete(early)
    since = datetime.now(UTC).isoformat()

    deleted = runfold("delete", "--project", "web", folder=tmp_path)
    restored = runfold("restore", "--project", "web", "--since", since, folder=tmp_path)

    assert [[later, "deleted"]] == [[row[0], row[3]] for row in deleted.rows]
    assert [[later, "restored"]] == [[row[0], row[3]] for row in restored.rows]
    assert ({later, other}, {early}, set()) == bins(log)


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["delete"], "one of both"),
        (["delete", "@last", "--project", "web"], "one of both"),
        (["restore", "--project", "web"], "belong together"),
        (["restore", "@last", "--since", "2h"], "belong together"),
        (["purge", "@last", "--kind", "test"], "one of both"),
        (["purge", "@last", "--limit", "3"], "one of both"),
        (["purge", "--kind", "test", "--yes"], "--older-than"),
        (["purge", "--yes"], "nothing says what to purge"),
        (["purge", "--older-than", "90d"], "--yes"),
        (["purge", "@last"], "--yes"),
        (["purge", "--older-than", "ages", "--yes"], "no duration"),
        (["purge", "--older-than", "1d", "--status", "running", "--yes"], "running"),
    ],
)
def test_bin_commands_when_written_wrongly(args: list[str], why: str, tmp_path: Path, log: ledger.Ledger) -> None:
    """A command that does not say what is meant is refused with what it lacks, and nothing happens."""
    run = a_finished_run(log)

    done = runfold(*args, folder=tmp_path)

    assert 2 == done.code
    assert why in done.err
    assert ({run}, set(), set()) == bins(log)


# --- purging runs that are named ----------------------------------------------------------------------------------


def test_purge_when_a_run_is_in_the_bin(tmp_path: Path, log: ledger.Ledger) -> None:
    """A run in the bin is purged for good: its history, logs and input are empty, its place stays."""
    run = a_finished_run(log, input={"n": 1}, labels={"branch": "main"})
    log.delete(run)

    told = runfold("purge", run, "--dry-run", folder=tmp_path)
    purged = runfold("purge", run, "--yes", "--reason", "asked for", folder=tmp_path)
    again = runfold("purge", run, "--yes", folder=tmp_path)

    assert [[run, "5", "", "would_purge"]] == [row[:4] for row in told.rows]
    assert [[run, "6", "purged", "completed", "test", "web"]] == [[*row[:2], *row[3:7]] for row in purged.rows]
    assert [[run, "6", "", "unchanged"]] == [row[:4] for row in again.rows]
    history = runfold("history", run, "--data", folder=tmp_path)
    assert [""] * 5 == [row[6] for row in history.rows[:-1]]
    assert "asked for" in history.rows[-1][6]
    assert (0, "") == (runfold("logs", run, folder=tmp_path).code, runfold("logs", run, folder=tmp_path).out)
    shown = json.loads(runfold("show", run, "--json", folder=tmp_path).out)
    assert (None, {}, "completed", "web") == (shown["input"], shown["labels"], shown["status"], shown["project"])
    assert (True, 6) == (shown["purged_at"] is not None, shown["purged_version"])
    assert [[run]] == [row[:1] for row in runfold("list", "--deleted", "purged", folder=tmp_path).rows]
    assert [] == runfold("list", folder=tmp_path).rows


def test_purge_when_a_run_is_not_in_the_bin(tmp_path: Path, log: ledger.Ledger) -> None:
    """A live run is refused, in a dry run as well; so is an active one."""
    live, active = a_finished_run(log), log.enqueue("test").id

    codes = [
        runfold("purge", run, *how, folder=tmp_path).code for run in (live, active) for how in (["-y"], ["--dry-run"])
    ]

    assert [5, 5, 5, 5] == codes
    assert ({live, active}, set(), set()) == bins(log)


def test_purge_when_its_bytes_are_looked_for(tmp_path: Path, log: ledger.Ledger) -> None:
    """When the command is done and nobody has the file open, nothing of the run is in it."""
    run = a_finished_run(log, labels={"owner": "ada.lovelace"})
    log.delete(run)
    Runs(log).list()
    log.close()

    runfold("purge", run, "--yes", folder=tmp_path)

    files = list((tmp_path / ".runfold").iterdir())
    assert "runs.db" in {file.name for file in files}
    assert not [file.name for file in files if b"ada.lovelace" in file.read_bytes()]


def test_purge_when_nobody_is_sure(tmp_path: Path, log: ledger.Ledger) -> None:
    """On a terminal it asks, and no is no."""
    run = a_finished_run(log)
    log.delete(run)

    no = runfold_on_terminal("purge", run, folder=tmp_path, keys="n\n")
    spared = bins(log)
    yes = runfold_on_terminal("purge", run, folder=tmp_path, keys="y\n")

    assert (130, True) == (no.code, "Nothing was purged" in no.out)
    assert (set(), {run}, set()) == spared
    assert (0, (set(), set(), {run})) == (yes.code, bins(log))


def test_purged_run_when_something_is_added(tmp_path: Path, log: ledger.Ledger) -> None:
    """A purged run is not restored: refused, with a problem that says so."""
    run = a_finished_run(log)
    log.purge(run, from_bin=False)

    done = runfold("restore", run, "--json", folder=tmp_path)

    assert 5 == done.code
    problem = json.loads(done.err.splitlines()[-1])
    assert ("urn:runfold:problem:run-purged", run) == (problem["type"], problem["run_id"])


def test_show_when_asked_for_a_time_before_the_purge(tmp_path: Path, log: ledger.Ledger) -> None:
    """As of a version before, it shows the status of then and says that the rest was erased."""
    run = a_finished_run(log)
    log.purge(run, from_bin=False)

    shown = runfold_on_terminal("show", run, "--at", "2", folder=tmp_path)

    assert "running" in shown.out
    assert "data of this time was erased, see version 5" in shown.out


# --- policies -----------------------------------------------------------------------------------------------------


def test_purge_when_runs_are_old(tmp_path: Path, log: ledger.Ledger) -> None:
    """What finished longer ago is purged; the dry run tells the same runs, and why."""
    old, build, young = an_old_run(log, 100), an_old_run(log, 100, kind="build"), an_old_run(log, 80)
    policy = ["purge", "--older-than", "90d", "--status", "completed", "--kind", "test"]

    told = runfold(*policy, "--dry-run", folder=tmp_path)
    untouched = bins(log)
    purged = runfold(*policy, "--yes", folder=tmp_path)
    again = runfold(*policy, "--yes", folder=tmp_path)

    assert [[old, "4", "", "would_purge"]] == [row[:4] for row in told.rows]
    assert "more than 90 days ago" in told.rows[0][9]
    assert ({old, build, young}, set(), set()) == untouched
    assert [[old, "5", "purged"]] == [[*row[:2], row[3]] for row in purged.rows]
    assert ({build, young}, set(), {old}) == bins(log)
    assert (0, []) == (again.code, again.rows)


def test_purge_when_the_settings_have_policies(tmp_path: Path, log: ledger.Ledger) -> None:
    """Without options, the tables of the settings say what goes; JSON has it all."""
    tests = [an_old_run(log, days) for days in (100, 101, 102)]
    build = an_old_run(log, 40, kind="build")
    an_old_run(log, 20, kind="build")
    (tmp_path / "runfold.toml").write_text(
        """
        [[retention]]
        name = "tests"
        kind = "test"
        status = ["completed", "failed"]
        older_than = "90d"
        keep_newest = 1

        [[retention]]
        older_than = "30d"
        kind = "build"
        """
    )

    told = runfold("purge", "--dry-run", "--json", "run_id,policy,result", folder=tmp_path)
    purged = runfold("purge", "--yes", "--jsonl", folder=tmp_path)

    assert {(tests[1], "tests"), (tests[2], "tests"), (build, "retention 2")} == {
        (row["run_id"], row["policy"]) for row in json.loads(told.out)
    }
    rows = [json.loads(line) for line in purged.out.splitlines()]
    assert {*tests[1:], build} == {row["run_id"] for row in rows} == bins(log)[2]
    assert {"purged"} == {row["result"] for row in rows}
    assert all(row["finished_at"].endswith("Z") and row["why"] for row in rows)


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ('[[retention]]\nkind = "test"', "a duration is needed"),
        ('[[retention]]\nolder_than = "soon"', "a duration is needed"),
        ("[[retention]]\nolder_than = 90", "a duration is needed"),
        ('[[retention]]\nolder_than = "1d"\nage = 3', "'age', which is none of"),
        ('[[retention]]\nolder_than = "1d"\nstatus = "running"', "Active runs are kept"),
        ('[[retention]]\nolder_than = "1d"\nkeep_newest = "2"', "an integer is needed"),
        ('[[retention]]\nolder_than = "1d"\nstatus = 3', "status"),
        ('retention = "90d"', "tables are needed"),
        ('[retention]\nolder_than = "1d"', "tables are needed"),
    ],
)
def test_settings_when_a_policy_is_wrong(table: str, why: str, tmp_path: Path, log: ledger.Ledger) -> None:
    """A policy that cannot be read is an error with its file and table, and nothing is purged."""
    run = an_old_run(log, 400)
    (tmp_path / "runfold.toml").write_text(table)

    done = runfold("purge", "--yes", folder=tmp_path)

    assert 2 == done.code
    assert why in done.err
    assert "runfold.toml" in done.err
    assert ({run}, set(), set()) == bins(log)


def test_settings_when_they_have_policies_and_other_commands_are_given(tmp_path: Path, log: ledger.Ledger) -> None:
    """Retention in a settings file disturbs no other setting."""
    (tmp_path / "runfold.toml").write_text('actor = "ci"\n[[retention]]\nolder_than = "1d"\n')

    shown = runfold("config", "show", folder=tmp_path)

    assert 0 == shown.code, shown.err
    assert ["actor", "ci"] == next(row[:2] for row in shown.rows if row[0] == "actor")


def test_purge_when_there_is_no_ledger(tmp_path: Path) -> None:
    """Without a ledger there is nothing to purge, and none is made."""
    done = runfold("purge", "--older-than", "1d", "--yes", folder=tmp_path)

    assert (7, []) == (done.code, list(tmp_path.iterdir()))
