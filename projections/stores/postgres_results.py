"""The tables of `results` in PostgreSQL."""

from collections.abc import Sequence
from typing import Final, LiteralString, cast

from ledger.store import Store
from ledger.stores.postgres import PostgresStore
from projections.results import (
    LAYOUT,
    RESULTS,
    OutcomeRow,
    RankedTest,
    RankingFilter,
    ResultRow,
    ResultsState,
    restore,
)
from projections.stores.postgres_details import PostgresDetails
from projections.stores.postgres_tables import fetch


def open_tables(store: Store) -> "PostgresResults":
    """Give the tables in the log's database."""
    return PostgresResults(cast(PostgresStore, store), RESULTS, LAYOUT, restore)


class PostgresResults(PostgresDetails[ResultsState]):
    """The tables of `results`, and what is asked of them."""

    def of_run(self, generation: int, run_id: str, *, after: int, limit: int) -> Sequence[ResultRow] | None:
        with self._store.session() as connection:
            rows = fetch(connection, _OF_RUN, (generation, run_id, after, limit))
            return [ResultRow._make(row) for row in rows] if self._is_live(connection, generation) else None

    def outcomes(self, generation: int, run_id: str, *, after: int, limit: int) -> Sequence[OutcomeRow] | None:
        with self._store.session() as connection:
            rows = fetch(connection, _OUTCOMES, (generation, run_id, after, limit))
            return [OutcomeRow._make(row) for row in rows] if self._is_live(connection, generation) else None

    def of_test(
        self, generation: int, test: bytes, *, project: str | None, kind: str | None, limit: int
    ) -> Sequence[ResultRow] | None:
        conditions = [
            (fragment, value) for fragment, value in ((_PROJECT, project), (_KIND, kind)) if value is not None
        ]
        sql = "".join([_OF_TEST, *[fragment for fragment, _ in conditions], _NEWEST_FIRST])
        with self._store.session() as connection:
            rows = fetch(connection, sql, (generation, test, *[value for _, value in conditions], limit))
            return [ResultRow._make(row) for row in rows] if self._is_live(connection, generation) else None

    def ranked(self, generation: int, wanted: RankingFilter) -> Sequence[RankedTest] | None:
        of_project = _OF_NO_PROJECT if wanted.project is None else _OF_PROJECT
        project = () if wanted.project is None else (wanted.project,)
        sql = _RANKED.replace("{of_project}", of_project) + _RANKING[wanted.ranking]
        params = (generation, *project, wanted.since, wanted.runs, generation, wanted.limit)
        with self._store.session() as connection:
            rows = fetch(connection, sql, params)
            return [RankedTest._make(row) for row in rows] if self._is_live(connection, generation) else None


_OF_RUN: Final = """
SELECT run_id, number, part, kind, project, created_at, shard_attempt, sequence, data
FROM runfold.results
WHERE generation = %s AND run_id = %s AND number > %s
ORDER BY number
LIMIT %s
"""
_OUTCOMES: Final = """
SELECT number, test_id, outcome
FROM runfold.results
WHERE generation = %s AND run_id = %s AND number > %s
ORDER BY number
LIMIT %s
"""
_OF_TEST: Final = """
SELECT
    result.run_id, result.number, result.part, result.kind, result.project, result.created_at, result.shard_attempt,
    result.sequence, result.data
FROM runfold.results AS result
JOIN runfold.result_runs AS run ON run.generation = result.generation AND run.run_id = result.run_id
WHERE result.generation = %s AND result.test = %s AND run.deleted_at IS NULL
"""
_PROJECT: Final = "    AND result.project = %s\n"
_KIND: Final = "    AND result.kind = %s\n"
_NEWEST_FIRST: Final = """
ORDER BY result.created_at DESC, result.run_id DESC, result.number DESC
LIMIT %s
"""
_OF_PROJECT: Final = "project = %s"
_OF_NO_PROJECT: Final = "project IS NULL"
# What one run reports of a test is one outcome: failed if a report of it failed, as one of a tear-down ("failed" is the
# lesser word). So a test that always fails there is as steady as one that always fails.
_RANKED: Final = """
WITH recent AS MATERIALIZED (
    SELECT run_id
    FROM runfold.result_runs
    WHERE generation = %s AND {of_project} AND created_at >= %s AND deleted_at IS NULL AND row_count > 0
    ORDER BY created_at DESC, run_id DESC
    LIMIT %s
),
executed AS (
    SELECT
        result.test,
        result.run_id,
        max(result.test_id) AS test_id,
        max(result.created_at) AS created_at,
        min(result.outcome) AS outcome,
        max(result.is_retried) AS is_retried,
        sum(result.duration_us) AS duration_us
    FROM recent
    JOIN runfold.results AS result ON result.generation = %s AND result.run_id = recent.run_id
    WHERE result.test IS NOT NULL AND result.outcome <> 'skipped'
    GROUP BY result.test, result.run_id
),
compared AS (
    SELECT
        test, test_id, outcome, is_retried, duration_us,
        lag(outcome) OVER (
            PARTITION BY test
            ORDER BY created_at, run_id
        ) AS before
    FROM executed
),
summed AS (
    SELECT
        max(test_id) AS test_id,
        count(*) AS executed,
        count(*) FILTER (WHERE outcome = 'failed') AS failed,
        count(*) FILTER (WHERE is_retried = 1 OR outcome <> before) AS unsteady,
        count(duration_us) AS timed,
        coalesce(sum(duration_us), 0)::bigint AS duration_us,
        max(duration_us)::bigint AS duration_us_max
    FROM compared
    GROUP BY test
)
SELECT test_id, executed, failed, unsteady, timed, duration_us, duration_us_max
FROM summed
"""
_RANKING: Final[dict[str, LiteralString]] = {
    "flaky": """
WHERE unsteady > 0
ORDER BY unsteady::double precision / executed DESC, unsteady DESC, test_id
LIMIT %s
""",
    "slowest": """
WHERE timed > 0
ORDER BY duration_us::double precision / timed DESC, test_id
LIMIT %s
""",
    "failing": """
WHERE failed > 0
ORDER BY failed DESC, failed::double precision / executed DESC, test_id
LIMIT %s
""",
}
