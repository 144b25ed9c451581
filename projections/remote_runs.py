"""The `runs` read model of a ledger behind a server: the same questions, answered there."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Unpack

from ledger.conversion import converter
from ledger.remote import RemoteLedger
from ledger.run.state import Run, RunState
from ledger.run.values import Status
from projections.queries import FOUND_MAX, RunFilters, RunPage, check_find, check_limit, check_projects, run_filter

_ROWS_MAX = 100
"""What the server gives at once."""
_as_run = converter(Run)


class RemoteRuns:
    """What `Runs` is of a ledger behind a server; see there.

    Args:
        log: The ledger.
    """

    def __init__(self, log: RemoteLedger) -> None:
        self._remote = log

    def get(self, run_id: str, *, at: int | datetime | None = None) -> RunState:
        return self._remote.state(run_id, at=at)

    def list(self, *, limit: int = 50, page_token: str | None = None, **filters: Unpack[RunFilters]) -> RunPage:
        query, left = _query(filters), check_limit(limit)
        runs: list[Run] = []
        while left:
            answer = self._remote.ask("/v1/runs", {**query, "limit": min(left, _ROWS_MAX), "page_token": page_token})
            runs += map(_as_run, answer["runs"])
            left, page_token = limit - len(runs), answer["next_page_token"]
            if page_token is None:
                break
        return RunPage(runs, page_token)

    def count(self, **filters: Unpack[RunFilters]) -> int:
        return self._count(_query(filters))

    def count_by_status(self, **filters: Unpack[RunFilters]) -> dict[Status, int]:
        query = _query(filters)
        wanted = run_filter(**filters).status or Status
        return {status: self._count({**query, "status": [status.value]}) for status in wanted}

    def count_by_kind(self) -> dict[tuple[str, Status], int]:
        counted = self._remote.ask("/v1/runs:count-by-kind", {})["counts"]
        return {(each["kind"], Status(each["status"])): each["count"] for each in counted}

    def count_by_project(self, project_ids: Sequence[str], **filters: Unpack[RunFilters]) -> dict[str, int]:
        query, names = _query(filters), check_projects(project_ids)
        return {project: self._count({**query, "project": project}) for project in dict.fromkeys(names)}

    def _count(self, query: dict[str, Any]) -> int:
        count: int = self._remote.ask("/v1/runs:count", query)["count"]
        return count

    def find(self, prefix: str, *, limit: int = FOUND_MAX, project: str | None = None) -> Sequence[str]:
        check_find(prefix, limit=limit, project=project)
        found: Sequence[str] = self._remote.ask(
            "/v1/runs:find", {"prefix": prefix, "limit": limit, "project": project}
        )["run_ids"]
        return found

    def latest(self, **filters: Unpack[RunFilters]) -> Run | None:
        found = self.list(limit=1, **filters).runs
        return found[0] if found else None


def _query(filters: RunFilters) -> dict[str, Any]:
    """Write filters as the server reads them; what cannot be asked is refused here as everywhere."""
    run_filter(**filters)
    query: dict[str, Any] = dict(filters)
    labels = query.pop("labels", None) or {}
    status = query.pop("status", None)
    words = [status] if isinstance(status, str) else list(status or ())
    return {
        **query,
        "label": [f"{name}={value}" for name, value in labels.items()],
        "status": [str(word) for word in words],
    }
