"""Questions about details are scans of an index in the order of the answer, also before anybody ran ANALYZE."""

from pathlib import Path

import pytest

import ledger
from ledger.stores.sqlite import SqliteStore
from projections.stores import sqlite_documents as documents
from projections.stores import sqlite_results as results

PARTS = (results._OF_TEST, results._PROJECT, results._KIND, results._NEWEST_FIRST)
PLANS: dict[str, tuple[str, tuple[object, ...], str]] = {
    "page of a run": (results._OF_RUN, (1, "r", 0, 5), "results_number (generation=? AND run_id=? AND number>?)"),
    "outcomes of a run": (results._OUTCOMES, (1, "r", 0, 5), "results_number (generation=? AND run_id=? AND number>?)"),
    "newest of a test": (PARTS[0] + PARTS[3], (1, b"t", 5), "results_test (generation=? AND test=?)"),
    "newest of a test and project": ("".join(PARTS), (1, b"t", "p", "k", 5), "results_test (generation=? AND test=?)"),
    "newest document": (
        documents._LATEST + documents._PROJECT + documents._NON_EMPTY + documents._NEWEST,
        (1, "n", "p"),
        "documents_name (generation=? AND name=?)",
    ),
    "recent runs": (
        results._RANKED.replace("{of_project}", results._OF_PROJECT) + results._RANKING["flaky"],
        (1, "p", "", 5, 1, 5),
        "result_runs_project (generation=? AND project=? AND created_at>?)",
    ),
}


@pytest.mark.parametrize("question", PLANS)
def test_plan_when_the_planner_knows_nothing(tmp_path: Path, question: str) -> None:
    """SQLite answers from the index that is meant for the question; rankings alone are sorted."""
    sql, params, index = PLANS[question]
    with ledger.open(f"sqlite:///{tmp_path / 'runs.db'}") as log:
        store = log.store
        assert isinstance(store, SqliteStore)
        with store.reading() as connection:
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", params)]

    assert [step for step in plan if index in step]
    assert not [step for step in plan if step.startswith("SCAN r") and question != "recent runs"]
    assert question == "recent runs" or not [step for step in plan if "TEMP B-TREE" in step]
