"""The background writers of an execution: their batches, their limits, and a ledger that is slow or out of reach."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest

import ledger
from cli.execution import file_results, log_writer, result_writer
from cli.execution.file_results import FileResults
from cli.execution.log_writer import LogWriter
from cli.execution.result_writer import ResultWriter, SequenceClaim
from cli.results.result_file import Result
from ledger.errors import OutcomeUnknown, StoreUnavailable

PASSED = {"testId": "a", "testName": "a", "status": "passed"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def log(path: Path) -> Iterator[ledger.Ledger]:
    with ledger.open(f"sqlite:///{path}") as log:
        yield log


@pytest.fixture
def run_id(log: ledger.Ledger) -> str:
    run_id = log.enqueue("test", shard_count=2).id
    log.start(run_id, worker="w1")
    return run_id


class Locked:
    """Holds a SQLite file's write lock, as a long transaction of somebody else does."""

    def __init__(self, path: Path) -> None:
        self._connection = apsw.Connection(str(path))
        self._connection.execute("BEGIN IMMEDIATE")

    def release(self) -> None:
        self._connection.execute("ROLLBACK")
        self._connection.close()


def test_result_writer_when_the_ledger_is_locked(log: ledger.Ledger, run_id: str, path: Path) -> None:
    """Results that come while others hold the file are recorded when it is free, and none twice."""
    lock = Locked(path)
    writer = ResultWriter(log, run_id, shard=0)
    threading.Timer(1.5, lock.release).start()

    for _ in range(250):
        writer.put(PASSED)
    recording = writer.close()

    assert (250, 0, None) == (recording.recorded, recording.lost, recording.reason)
    assert {"passed": 250} == log.state(run_id).statuses


@pytest.mark.parametrize(("given", "lost"), [(5, 0), (6, 1)])
def test_result_writer_at_its_limit(
    log: ledger.Ledger, run_id: str, monkeypatch: pytest.MonkeyPatch, given: int, lost: int
) -> None:
    """As many results wait as the limit says; one more is given up and counted."""
    monkeypatch.setattr(result_writer, "WAITING_RESULTS_MAX", 5)
    monkeypatch.setattr(result_writer, "BATCH_S", 60.0)
    writer = ResultWriter(log, run_id, shard=0)

    for _ in range(given):
        writer.put(PASSED)
    recording = writer.close()

    assert (5, lost) == (recording.recorded, recording.lost)


def test_result_writer_at_its_limit_when_it_may_wait(
    log: ledger.Ledger, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader of files waits for room, and loses nothing."""
    monkeypatch.setattr(result_writer, "WAITING_RESULTS_MAX", 5)
    writer = ResultWriter(log, run_id, shard=0, waits=True)

    for _ in range(20):
        writer.put(PASSED)
    recording = writer.close()

    assert (20, 0) == (recording.recorded, recording.lost)


def test_result_writer_when_one_result_cannot_be_stored(log: ledger.Ledger, run_id: str) -> None:
    """A result that no database stores is lost by itself; its neighbours are recorded."""
    writer = ResultWriter(log, run_id, shard=0)

    writer.put(PASSED)
    writer.put({**PASSED, "durationMs": float("nan")})
    writer.put(PASSED)
    recording = writer.close()

    assert (2, 1) == (recording.recorded, recording.lost)
    assert "durationMs" in (recording.reason or "")


def test_result_writer_when_its_shard_was_handed_on(log: ledger.Ledger, run_id: str) -> None:
    """The results of an older attempt are refused, and counted as lost."""
    log.retry_shard(run_id, 0)
    writer = ResultWriter(log, run_id, shard=0, shard_attempt=1)

    writer.put(PASSED)
    recording = writer.close()

    assert (0, 1) == (recording.recorded, recording.lost)
    assert {} == log.state(run_id).statuses


def test_result_writer_when_there_is_no_such_run(log: ledger.Ledger) -> None:
    """An unknown run loses the results with the ledger's own words."""
    writer = ResultWriter(log, "0199d1a2-0000-7000-8000-000000000000", shard=0)

    writer.put(PASSED)
    recording = writer.close()

    assert (0, 1) == (recording.recorded, recording.lost)
    assert "does not exist" in (recording.reason or "")


def test_result_writer_when_results_are_large(log: ledger.Ledger, run_id: str) -> None:
    """Batches are cut by size as well, so that no event exceeds what a payload may have."""
    writer = ResultWriter(log, run_id, shard=0)

    for _ in range(300):
        writer.put({**PASSED, "status": "failed", "error": "\x01" * 8_000})  # six bytes each in JSON
    recording = writer.close()

    assert (300, 0) == (recording.recorded, recording.lost)


def test_result_writer_when_results_trickle(log: ledger.Ledger, run_id: str) -> None:
    """A single result does not wait for company."""
    writer = ResultWriter(log, run_id, shard=0)
    writer.put(PASSED)

    began = time.monotonic()
    while not log.state(run_id).statuses:
        assert time.monotonic() - began < 5
        time.sleep(0.02)

    writer.close()


def test_sequence_claim_when_somebody_holds_it() -> None:
    """One writer of a shard's attempt numbers its results; when it is done, the next one may."""
    first = SequenceClaim("run", 0, 1)
    second = SequenceClaim("run", 0, 1)
    other_shard = SequenceClaim("run", 1, 1)
    held = (first.is_held, second.is_held, other_shard.is_held)
    for claim in (first, second, other_shard):
        claim.release()
    third = SequenceClaim("run", 0, 1)
    is_held = third.is_held
    third.release()

    assert ((True, False, True), True) == (held, is_held)
    assert not third.path.exists()


def test_log_writer_when_shards_speak_at_once(log: ledger.Ledger, run_id: str) -> None:
    """Each shard's source keeps its own order, whatever came between."""
    writer = LogWriter(log, run_id)

    for number in range(1_000):
        writer.put(number % 2, "stdout", str(number))
    writer.close()

    events = [event.data for event in log.read(run_id) if event.type == "log_appended"]
    for shard in range(2):
        lines = [line for event in events if event.shard == shard for line in event.lines]  # type: ignore[union-attr]
        assert [str(number) for number in range(shard, 1_000, 2)] == lines
    assert 0 == writer.lost


@pytest.mark.parametrize(("waiting", "is_full"), [(4, False), (5, True)])
def test_log_writer_at_its_limit(
    log: ledger.Ledger, run_id: str, monkeypatch: pytest.MonkeyPatch, waiting: int, is_full: bool
) -> None:
    """With as many lines waiting as the limit says, the executor reads no further."""
    monkeypatch.setattr(log_writer, "WAITING_LINES_MAX", 5)
    monkeypatch.setattr(log_writer, "BATCH_S", 60.0)
    writer = LogWriter(log, run_id)

    for _ in range(waiting):
        writer.put(0, "stdout", "x")
    found = writer.is_full
    writer.close()

    assert (is_full, waiting) == (found, log.state(run_id).log_line_count)


@pytest.mark.parametrize(("file_count", "statuses"), [(3, ["passed"] * 3), (4, ["passed"] * 3 + ["error"])])
def test_file_results_at_their_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_count: int, statuses: list[str]
) -> None:
    """As many files are read as the limit says; one more is an error among the results."""
    monkeypatch.setattr(file_results, "FILES_MAX", 3)
    results: list[Result] = []
    complaints: list[str] = []
    files = FileResults(junit=[f"{tmp_path}/*.xml"], reportlog=[], put=results.append, complain=complaints.append)
    for number in range(file_count):
        (tmp_path / f"{number}.xml").write_text("<testsuite><testcase name='a'/></testsuite>")

    files.finish()

    assert statuses == [result["status"] for result in results]
    assert statuses.count("error") == len(complaints)


class Breaking(ledger.Ledger):
    """A ledger whose connection is lost at chosen appends of lines: before the commit, or after it."""

    def __init__(self, log: ledger.Ledger, losses: list[Exception | None], *, commits: bool) -> None:
        self._log = log
        self._losses = losses
        self._commits = commits

    def append_log(self, run_id: str, lines: Sequence[str], **facts: Any) -> int:
        loss = self._losses.pop(0) if self._losses else None
        if loss is None or self._commits:
            self._log.append_log(run_id, lines, **facts)
        if loss is not None:
            raise loss
        return len(lines)


@pytest.mark.parametrize("commits", [True, False])
def test_log_writer_when_the_connection_is_lost(
    log: ledger.Ledger, run_id: str, monkeypatch: pytest.MonkeyPatch, commits: bool
) -> None:
    """Lines whose append was lost, before its commit or after it, are in the log once, and in their order."""
    monkeypatch.setattr(log_writer, "RETRY_S", 0.01)
    unknown = OutcomeUnknown(event_ids=["0"], request="lines")
    writer = LogWriter(Breaking(log, [unknown, StoreUnavailable("gone"), unknown], commits=commits), run_id)

    for number in range(2_500):
        writer.put(0, "stdout", str(number))
    writer.close()

    recorded = [line for event in log.read(run_id) if event.type == "log_appended" for line in event.data.lines]
    assert [str(number) for number in range(2_500)] == recorded
    assert (0, None) == (writer.lost, writer.reason)


def test_log_writer_when_the_ledger_stays_away(
    log: ledger.Ledger, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines that cannot be kept are counted, all of them, after one wait; the reason is for somebody at a shell."""
    monkeypatch.setattr(log_writer, "RETRY_S", 0.05)
    monkeypatch.setattr(log_writer, "TRY_S", 0.5)
    unknown: list[Exception | None] = [OutcomeUnknown(event_ids=["0"], request="lines") for _ in range(1_000)]
    writer = LogWriter(Breaking(log, unknown, commits=False), run_id)
    for number in range(5_000):
        writer.put(number % 3, "stdout", str(number))

    began = time.monotonic()
    writer.close()

    assert 5_000 == writer.lost
    assert time.monotonic() - began < 2
    assert "out of reach" in (writer.reason or "")
    assert "resolve()" not in (writer.reason or "")


@pytest.mark.parametrize(("chars", "is_full"), [(9, False), (10, True)])
def test_log_writer_at_its_limit_of_characters(
    log: ledger.Ledger, run_id: str, monkeypatch: pytest.MonkeyPatch, chars: int, is_full: bool
) -> None:
    """A few long lines fill the writer as many short ones do."""
    monkeypatch.setattr(log_writer, "WAITING_CHARS_MAX", 10)
    monkeypatch.setattr(log_writer, "BATCH_S", 60.0)
    writer = LogWriter(log, run_id)

    writer.put(0, "stdout", "x" * chars)
    found = writer.is_full
    writer.close()

    assert is_full == found


def test_log_writer_when_there_is_no_such_run(log: ledger.Ledger) -> None:
    """Lines that cannot be written are counted, with the reason."""
    writer = LogWriter(log, "0199d1a2-0000-7000-8000-000000000000")

    writer.put(0, "stdout", "lost")
    writer.close()

    assert 1 == writer.lost
    assert "does not exist" in (writer.reason or "")
