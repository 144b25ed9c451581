"""What a purge leaves on the disk of a SQLite ledger: nothing of what it erased."""

from pathlib import Path

import apsw
import pytest

import ledger
from projections import PROJECTIONS, catch_up, lag
from projections.retention import forget

SECRET = "ada.lovelace@example.org"


def a_run_with_secrets(log: ledger.Ledger) -> str:
    run = log.enqueue("test", labels={"owner": SECRET}, input={"mail": SECRET, "pad": "x" * 20_000})
    log.start(run.id, worker="w1")
    for _ in range(50):
        log.append_log(run.id, [SECRET, "y" * 3_000])
    log.append_results(run.id, [{"status": "failed", "error": SECRET}] * 100)
    log.record_document(run.id, "audit", {"by": SECRET})
    log.enter_phase(run.id, SECRET)
    log.fail(run.id, error=SECRET)
    log.delete(run.id, reason=SECRET)
    return run.id


def files_with_secrets(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if SECRET.encode() in path.read_bytes())


@pytest.mark.parametrize("catches_up_before", [True, False])
def test_file_when_a_run_was_purged(tmp_path: Path, catches_up_before: bool) -> None:
    """Neither the file nor its write-ahead log has a byte of what was erased; rows lose it with the next read."""
    with ledger.open(f"sqlite:///{tmp_path / 'runs.db'}") as log:
        run_id = a_run_with_secrets(log)
        if catches_up_before:
            for name in PROJECTIONS:
                catch_up(log, name)
        assert files_with_secrets(tmp_path)

        log.purge(run_id)
        if catches_up_before:
            forget(log)  # what the rows were is in the write-ahead log until that is written over, or the file closed
        else:
            assert [] == files_with_secrets(tmp_path)

    assert [] == files_with_secrets(tmp_path)


def test_file_when_somebody_reads_during_the_purge(tmp_path: Path) -> None:
    """A reader in the middle of its transaction is not waited for; the bytes go when the file is closed."""
    with ledger.open(f"sqlite:///{tmp_path / 'runs.db'}") as log:
        run_id = a_run_with_secrets(log)
        reader = apsw.Connection(str(tmp_path / "runs.db"))
        reader.execute("BEGIN")
        count = reader.execute("SELECT count(*) FROM events").get

        outcome = log.purge(run_id)

        assert count == reader.execute("SELECT count(payload) FROM events").get
        reader.close()
        assert outcome.winner is not None

    assert [] == files_with_secrets(tmp_path)


def test_secure_delete_when_a_ledger_is_open(tmp_path: Path) -> None:
    """Every connection overwrites what it deletes."""
    with ledger.open(f"sqlite:///{tmp_path / 'runs.db'}") as log, log.store.writing() as connection:  # type: ignore[attr-defined]
        assert 1 == connection.pragma("secure_delete")


def test_read_models_when_nobody_read_them(tmp_path: Path) -> None:
    """A purge brings those read models up to date that have rows, and does not make others from the whole log."""
    with ledger.open(f"sqlite:///{tmp_path / 'runs.db'}") as log:
        run_id = a_run_with_secrets(log)
        catch_up(log, "results")
        log.purge(run_id)

        forget(log)

        assert {"results"} == {name for name in PROJECTIONS if lag(log, name).events_behind == 0}
