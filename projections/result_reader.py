"""`Results`: what is asked of results, of one run, of one test, and of the recent runs of a project."""

from collections.abc import Iterator
from datetime import datetime
from functools import partial

from ledger import limits
from ledger.api import Ledger
from ledger.errors import RunNotFound
from ledger.run.codec import timestamp
from ledger.run.values import check_integer, check_text, check_time, check_uuid
from projections.projector import fresh
from projections.queries import check_limit
from projections.results import (
    RESULTS,
    OutcomeRow,
    RankedTest,
    Ranking,
    RankingFilter,
    Result,
    ResultPage,
    TestSummary,
    check_ranking,
    check_test_id,
    digest_of_test,
    page_start,
    result_of,
    summary_of,
)
from projections.results import page_token as make_page_token
from projections.stores import open_result_tables

_NAME = limits.NAME_CHARS_MAX


class Results:
    """The results of a ledger's runs, for reading; each read is as fresh as the log. Safe to use from any thread.

    Args:
        log: The ledger.
    """

    def __new__(cls, log: Ledger) -> "Results":
        """Give the results of a ledger; one behind a server answers the same questions there."""
        if hasattr(log, "ask"):
            from projections.remote_results import RemoteResults

            return RemoteResults(log)  # type: ignore[return-value, arg-type]
        return super().__new__(cls)

    def __init__(self, log: Ledger) -> None:
        self._log = log
        self._tables = open_result_tables(log.store)

    def of_run(self, run_id: str, *, limit: int = 1_000, page_token: str | None = None) -> ResultPage:
        """Give a run's results that count, in the order in which they first appeared.

        Args:
            run_id: The run, also a deleted one.
            limit: Results of a page, 1 to `limits.LIST_ROWS_MAX`.
            page_token: `next_page_token` of the page before; None is the first page.

        Raises:
            InvalidInput: when the id is no UUID, or the limit or the token is none.
            RunNotFound: when there is no such run.
        """
        check_uuid(run_id, field="run_id")
        check_limit(limit)
        after = page_start(run_id, page_token)
        read = partial(self._tables.of_run, run_id=run_id, after=after, limit=limit + 1)
        rows = fresh(self._log, RESULTS.name, read)
        if not rows:
            self._require_known(run_id)
        more = len(rows) > limit
        results = [result_of(row) for row in rows[:limit]]
        return ResultPage(results, make_page_token(run_id, rows[limit - 1].number) if more else None)

    def all_of_run(self, run_id: str) -> Iterator[Result]:
        """Give all of a run's results, reading page by page; see `of_run`."""
        token: str | None = None
        while True:
            page = self.of_run(run_id, page_token=token)
            yield from page.results
            token = page.next_page_token
            if token is None:
                return

    def latest(self, test_id: str, *, project: str | None = None, kind: str | None = None) -> Result | None:
        """Give the newest result of a test: of the newest run that has one, the last one. Deleted runs are left out.

        Args:
            test_id: The test's id, whole: `TC-1` is not `TC-10`.
            project: Of this project's runs; None is any.
            kind: Of runs of this kind; None is any.
        """
        found = self._of_test(test_id, project=project, kind=kind, limit=1)
        return found[0] if found else None

    def history(
        self, test_id: str, *, project: str | None = None, kind: str | None = None, limit: int = 50
    ) -> list[Result]:
        """Give the newest results of a test, the newest first; see `latest`."""
        return self._of_test(test_id, project=project, kind=kind, limit=check_limit(limit))

    def tests(
        self,
        *,
        project: str | None,
        since: datetime | None = None,
        order: Ranking = "flaky",
        limit: int = 50,
        runs: int = limits.RANKED_RUNS,
    ) -> list[TestSummary]:
        """Rank the tests of a project by what its newest runs say.

        Skips are left out, and so are tests that have nothing to rank them by. Equals stand in the order of their ids.

        What a run reports of a test counts once: as failed if one of its reports failed, such as that of a tear-down
        after a call that passed; its duration is their sum.

        - `flaky`: by the share of executed results that are unsteady. One is unsteady when it passed only after a retry
          (`retryCount` or `retries` above 0), or when its outcome (passed or failed) is another than that of the test's
          executed result before it. Results follow one another as their runs were created. A test that always fails is
          not flaky.
        - `slowest`: by the mean duration.
        - `failing`: by how many results failed, then by their share.

        Args:
            project: Whose runs; None is runs of no project.
            since: Only runs created at this moment or later.
            order: How to rank.
            limit: Tests, 1 to `limits.LIST_ROWS_MAX`.
            runs: How many of the newest runs that have results are looked at, up to `limits.RANKED_RUNS_MAX`. The cost
                grows with their results: some 3 s for a million.
        """
        wanted = RankingFilter(
            project=None if project is None else check_text(project, field="project", chars_max=_NAME),
            since="" if since is None else timestamp(check_time(since, field="since")),
            runs=check_integer(runs, field="runs", at_least=1, at_most=limits.RANKED_RUNS_MAX),
            ranking=check_ranking(order),
            limit=check_limit(limit),
        )
        ranked = fresh(self._log, RESULTS.name, partial(self._tables.ranked, wanted=wanted))
        return [self._summary(test, project) for test in ranked]

    def outcomes(self, run_id: str) -> Iterator[OutcomeRow]:
        """Give test id and outcome of each of a run's results, without reading what is heavy.

        Raises:
            RunNotFound: when there is no such run.
        """
        check_uuid(run_id, field="run_id")
        after, rows = -1, None
        while rows is None or len(rows) == limits.LIST_ROWS_MAX:
            read = partial(self._tables.outcomes, run_id=run_id, after=after, limit=limits.LIST_ROWS_MAX)
            rows = fresh(self._log, RESULTS.name, read)
            if not rows and after < 0:
                self._require_known(run_id)
            yield from rows
            after = rows[-1].number if rows else after

    def _of_test(self, test_id: str, *, project: str | None, kind: str | None, limit: int) -> list[Result]:
        read = partial(
            self._tables.of_test,
            test=digest_of_test(check_test_id(test_id)),
            project=None if project is None else check_text(project, field="project", chars_max=_NAME),
            kind=None if kind is None else check_text(kind, field="kind", chars_max=_NAME),
            limit=limit,
        )
        return [result_of(row) for row in fresh(self._log, RESULTS.name, read)]

    def _summary(self, test: RankedTest, project: str | None) -> TestSummary:
        return summary_of(test, self.latest(test.test_id, project=project))

    def _require_known(self, run_id: str) -> None:
        known = fresh(self._log, RESULTS.name, partial(self._tables.versions, run_ids=[run_id]))
        if run_id not in known:
            raise RunNotFound(run_id)
