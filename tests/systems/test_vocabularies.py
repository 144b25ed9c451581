"""The words of the source systems, read and written."""

import pytest

from ledger import InvalidInput, Ledger, Status
from ledger.run.state import Run
from projections import Runs
from projections.vocabularies import STATUS_LABEL, VOCABULARIES, status_of, statuses_of, view, vocabulary, word_of

WORDS = {
    "sentri": "running running running interrupted completed failed aborted",
    "sprongus": "queued queued running running succeeded failed canceled",
    "choo": "pending pending running running completed failed cancelled",
    "sando": "building building building building passed failed aborted",
}


@pytest.mark.parametrize("name", VOCABULARIES)
def test_words_of_each_status(name: str) -> None:
    """Each status has a word, and the words lead back to every status, the finished ones one to one."""
    words = vocabulary(name)

    said = [word_of(Run(run_id="r", status=status), words) for status in Status]

    assert WORDS[name].split() == said
    assert set(Status) == {status for word in set(said) for status in statuses_of(word, words)}
    for status in (Status.COMPLETED, Status.FAILED, Status.ABORTED):
        assert status is status_of(word_of(Run(run_id="r", status=status), words), words)


def test_aliases_without_a_vocabulary() -> None:
    """Every system's word for one status is understood; what nobody says is refused with what is said."""
    assert [Status.COMPLETED, Status.ABORTED, Status.ABORTED, Status.QUEUED, Status.COMPLETED] == [
        status_of(word) for word in ("succeeded", "canceled", "cancelled", "pending", "passed")
    ]
    with pytest.raises(InvalidInput, match="completed, failed, aborted"):
        status_of("finished")
    with pytest.raises(InvalidInput, match="queued, running, succeeded"):
        status_of("completed", VOCABULARIES["sprongus"])
    with pytest.raises(InvalidInput, match="sentri, sprongus"):
        vocabulary("jenkins")


def test_word_that_a_run_was_written_with() -> None:
    """A finer word is kept while it holds: an empty crawl is completed_empty, unless it failed after all."""
    sentri = VOCABULARIES["sentri"]
    labels = {STATUS_LABEL: "completed_empty"}

    assert "completed_empty" == word_of(Run(run_id="r", status=Status.COMPLETED, labels=labels), sentri)
    assert "failed" == word_of(Run(run_id="r", status=Status.FAILED, labels=labels), sentri)
    assert "succeeded" == word_of(Run(run_id="r", status=Status.COMPLETED, labels=labels), VOCABULARIES["sprongus"])


def test_view_of_one_run_in_every_vocabulary(log: Ledger) -> None:
    """One run is told under each system's names, with the same facts."""
    run = log.enqueue("build", project="web", shard_count=2, worker="w1").id
    log.append_results(run, [{"status": "passed"}, {"status": "failed"}], shard=0)
    log.finish_gate(run, "lint", "failed", summary="2 warnings")
    log.fail(run, error="lint is red", category="gate")
    state = Runs(log).get(run)

    sentri, sprongus, choo, sando = (view(state, words) for words in VOCABULARIES.values())

    assert ("web", "build", "failed", 1, 1, 2, 2) == tuple(
        sentri[name] for name in ("projectId", "type", "status", "passed", "failed", "total", "shardCount")
    )
    assert {"passed": False, "violations": ["lint: 2 warnings"]} == sentri["gateResult"]
    assert ("failed", "lint is red", "w1") == (sprongus["state"], sprongus["error"], sprongus["claimedBy"])
    assert ("failed", "lint is red") == (choo["status"], choo["error"])
    assert ("failed", "done", "lint: 2 warnings") == tuple(
        sando[name] for name in ("result", "phase", "failure_summary")
    )
    assert {sentri["id"], sprongus["id"], choo["id"], sando["run_id"]} == {run}
