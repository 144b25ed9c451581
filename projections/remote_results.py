"""What results say, and how long things took, in a ledger behind a server: the same questions, answered there."""

from collections.abc import Iterator
from datetime import datetime

from ledger import limits
from ledger.conversion import converter
from ledger.remote import RemoteLedger
from ledger.run.values import check_integer, check_time, check_uuid
from projections.queries import check_limit
from projections.results import Ranking, Result, ResultPage, TestSummary, check_ranking, check_test_id
from projections.timings import RunTimings

_as_result = converter(Result)
_as_test = converter(TestSummary)
_as_timings = converter(RunTimings)


class RemoteResults:
    """What `Results` is of a ledger behind a server; see there.

    Differs from it: `outcomes` is not there; `compare` asks the server for what it would be read for.

    Args:
        log: The ledger.
    """

    def __init__(self, log: RemoteLedger) -> None:
        self._remote = log

    def of_run(self, run_id: str, *, limit: int = 1_000, page_token: str | None = None) -> ResultPage:
        path = f"/v1/runs/{check_uuid(run_id, field='run_id')}/results:counted"
        answer = self._remote.ask(path, {"limit": check_limit(limit), "page_token": page_token})
        return ResultPage(list(map(_as_result, answer["results"])), answer["next_page_token"])

    def all_of_run(self, run_id: str) -> Iterator[Result]:
        token: str | None = None
        while True:
            page = self.of_run(run_id, page_token=token)
            yield from page.results
            token = page.next_page_token
            if token is None:
                return

    def latest(self, test_id: str, *, project: str | None = None, kind: str | None = None) -> Result | None:
        found = self.history(test_id, project=project, kind=kind, limit=1)
        return found[0] if found else None

    def history(
        self, test_id: str, *, project: str | None = None, kind: str | None = None, limit: int = 50
    ) -> list[Result]:
        query = {"test_id": check_test_id(test_id), "project": project, "kind": kind, "limit": check_limit(limit)}
        return list(map(_as_result, self._remote.ask("/v1/tests:history", query)["results"]))

    def tests(
        self,
        *,
        project: str | None,
        since: datetime | None = None,
        order: Ranking = "flaky",
        limit: int = 50,
        runs: int = limits.RANKED_RUNS,
    ) -> list[TestSummary]:
        query = {
            "project": project,
            "since": None if since is None else check_time(since, field="since"),
            "order": check_ranking(order),
            "limit": check_limit(limit),
            "runs": check_integer(runs, field="runs", at_least=1, at_most=limits.RANKED_RUNS_MAX),
        }
        return list(map(_as_test, self._remote.ask("/v1/tests", query)["tests"]))


class RemoteTimings:
    """What `Timings` is of a ledger behind a server; see there.

    Args:
        log: The ledger.
    """

    def __init__(self, log: RemoteLedger) -> None:
        self._remote = log

    def of_run(self, run_id: str) -> RunTimings:
        return _as_timings(self._remote.ask(f"/v1/runs/{check_uuid(run_id, field='run_id')}/timings", {}))
