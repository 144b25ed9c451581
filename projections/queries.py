"""What lists of runs can be asked: a closed set of filters, one order, and page tokens.

The order is newest first: by `created_at`, then by run id, both descending. A page continues after the last row of the
one before (a keyset), so page 1,000 costs what page 1 costs, and rows that come or go shift nothing.
"""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, Literal, NamedTuple, TypedDict

import msgspec

from ledger import limits
from ledger.errors import InvalidInput
from ledger.run.codec import encode_json, timestamp
from ledger.run.state import Run
from ledger.run.values import (
    Status,
    Verdict,
    check_integer,
    check_labels,
    check_optional_text,
    check_text,
    check_time,
    check_uuid,
)
from projections.runs import StoredRun, created_text, decode_run, deleted_text

CountedBy = Literal["project", "status"]
Deleted = Literal["exclude", "only", "include", "purged"]
_DELETED: Final = ("exclude", "only", "include", "purged")

FOUND_MAX: Final = 10
"""Run ids that `find` gives at most: enough to name those that a prefix could mean."""
_TOKEN_CHARS_MAX: Final = 512
_PREFIX_CHARACTERS: Final = frozenset("0123456789abcdef-")


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs to list; every condition that is set must hold. Make one with `run_filter`.

    Attributes:
        status: Any of these; empty is every status.
        labels: Name and value; a run must have them all.
        since: Created at this time or later, in the ledger's text format.
        before: Created before this time.
        at: As the runs were at this time, each up to its first event that was recorded later.
        without: Not these runs, whose rows somebody has newer.
    """

    project: str | None = None
    kind: str | None = None
    status: tuple[Status, ...] = ()
    verdict: Verdict | None = None
    labels: tuple[tuple[str, str], ...] = ()
    since: str | None = None
    before: str | None = None
    parent_run_id: str | None = None
    deleted: Deleted = "exclude"
    at: str | None = None
    without: tuple[str, ...] = ()


class RunFilters(TypedDict, total=False):
    """What `run_filter` takes, as keyword arguments of the lists."""

    project: str | None
    kind: str | None
    status: str | Iterable[str] | None
    verdict: str | None
    labels: Mapping[str, str] | None
    since: datetime | None
    before: datetime | None
    parent_run_id: str | None
    deleted: Deleted
    at: datetime | None


class PageKey(NamedTuple):
    """Where a page begins: after the row with this place in the order."""

    created_at: str
    run_id: str


class ListedRun(NamedTuple):
    """What a list reads of one row; `run` is canonical JSON."""

    created_at: str
    run_id: str
    last_recorded_at: str
    run: bytes

    @property
    def key(self) -> PageKey:
        return PageKey(self.created_at, self.run_id)


class RunPage(NamedTuple):
    """One page of a list.

    Attributes:
        runs: Newest first.
        next_page_token: What to ask the next page with; None when this is the last.
    """

    runs: list[Run]
    next_page_token: str | None


def run_filter(
    *,
    project: str | None = None,
    kind: str | None = None,
    status: str | Iterable[str] | None = None,
    verdict: str | None = None,
    labels: Mapping[str, str] | None = None,
    since: datetime | None = None,
    before: datetime | None = None,
    parent_run_id: str | None = None,
    deleted: Deleted = "exclude",
    at: datetime | None = None,
) -> RunFilter:
    """Check what a caller asks for.

    Args:
        project: Runs of this project.
        kind: Runs of this kind.
        status: Runs in this status, or in any of several; an empty list is every status.
        verdict: Runs with this verdict.
        labels: Runs that have all these labels, with these values.
        since: Runs created at this moment or later.
        before: Runs created before this moment.
        parent_run_id: Runs that are a part of this one.
        deleted: Whether runs in the recycle bin are left out (`exclude`), the `only` ones, or among the others
            (`include`). What is left of purged runs is left out too, and `include`d, or asked for by itself: `purged`.
        at: Show the runs as they were at this moment; None is now.

    Raises:
        InvalidInput: when a value is none that a run can have.
    """
    if deleted not in _DELETED:
        raise InvalidInput("deleted", f"is {deleted!r}; {', '.join(_DELETED)} is allowed.")
    return RunFilter(
        project=None if project is None else check_text(project, field="project", chars_max=limits.NAME_CHARS_MAX),
        kind=None if kind is None else check_text(kind, field="kind", chars_max=limits.NAME_CHARS_MAX),
        status=_statuses(status),
        verdict=None if verdict is None else _verdict(verdict),
        labels=tuple(check_labels(labels).items()),
        since=_moment(since, field="since"),
        before=_moment(before, field="before"),
        parent_run_id=None if parent_run_id is None else check_uuid(parent_run_id, field="parent_run_id"),
        deleted=deleted,
        at=_moment(at, field="at"),
    )


def _statuses(status: str | Iterable[str] | None) -> tuple[Status, ...]:
    if status is None:
        return ()
    if not isinstance(status, str | Iterable):
        raise InvalidInput("status", f"is {type(status).__name__}; a status or a list of them is needed.")
    words = [status] if isinstance(status, str) else list(status)
    unknown = [word for word in words if not isinstance(word, str) or word not in tuple(Status)]
    if unknown:
        raise InvalidInput("status", f"{unknown[0]!r} is none of: {', '.join(Status)}.")
    return tuple(sorted({Status(word) for word in words}))


def _verdict(verdict: str) -> Verdict:
    if verdict not in tuple(Verdict):
        raise InvalidInput("verdict", f"{verdict!r} is none of: {', '.join(Verdict)}.")
    return Verdict(verdict)


def _moment(moment: datetime | None, *, field: str) -> str | None:
    return None if moment is None else timestamp(check_time(moment, field=field))


def lasting(wanted: RunFilter) -> RunFilter:
    """Give the part of a filter that a run's later events cannot change: what holds now held at any moment."""
    return msgspec.structs.replace(wanted, status=(), verdict=None, labels=(), deleted="include")


def is_counted(wanted: RunFilter) -> bool:
    """Tell whether tables need not look at runs to count these: only project, kind and status are asked for."""
    asked = msgspec.structs.replace(wanted, project=None, kind=None, status=())
    return asked == RunFilter()


def matches(wanted: RunFilter, run: Run) -> bool:
    """Tell whether a run is among those asked for. The tables answer the same in SQL."""
    created_at = created_text(run)
    return (
        run.run_id not in wanted.without
        and (wanted.project is None or run.project == wanted.project)
        and (wanted.kind is None or run.kind == wanted.kind)
        and (not wanted.status or run.status in wanted.status)
        and (wanted.verdict is None or run.verdict == wanted.verdict)
        and all(run.labels.get(name) == value for name, value in wanted.labels)
        and (wanted.since is None or created_at >= wanted.since)
        and (wanted.before is None or created_at < wanted.before)
        and (wanted.parent_run_id is None or run.parent_run_id == wanted.parent_run_id)
        and (wanted.deleted == "include" or wanted.deleted == _bin(run))
    )


def matching(wanted: RunFilter, rows: Iterable[StoredRun]) -> list[ListedRun]:
    """Give what a list reads of those rows that are among the ones asked for, newest first."""
    found = [
        ListedRun(row.created_at, row.run_id, row.last_recorded_at, row.run)
        for row in rows
        if (wanted.at is None or row.first_recorded_at <= wanted.at) and matches(wanted, decode_run(row.run))
    ]
    return sorted(found, key=lambda row: row.key, reverse=True)


def finding(prefix: str, rows: Iterable[StoredRun], *, project: str | None) -> list[str]:
    """Give the ids that begin with a text, in their order; of one project only, where one is given."""
    return sorted(
        row.run_id for row in rows if row.run_id.startswith(prefix) and (project is None or row.project == project)
    )


def _bin(run: Run) -> Deleted:
    """Tell which lists a run is in."""
    text = deleted_text(run)
    return "exclude" if text is None else "only" if text else "purged"


def check_limit(limit: int) -> int:
    """Check how many rows a page may have."""
    return check_integer(limit, field="limit", at_least=1, at_most=limits.LIST_ROWS_MAX)


def check_projects(project_ids: Sequence[str]) -> list[str]:
    """Check the projects whose runs are counted at once.

    Raises:
        InvalidInput: when they are no list of names, or too many.
    """
    if isinstance(project_ids, str) or not isinstance(project_ids, Sequence):
        raise InvalidInput("project_ids", f"is {type(project_ids).__name__}; a list of projects is needed.")
    if len(project_ids) > limits.LIST_ROWS_MAX:
        raise InvalidInput("project_ids", f"has {len(project_ids):,} projects; {limits.LIST_ROWS_MAX:,} are allowed.")
    return [check_text(name, field="project_ids", chars_max=limits.NAME_CHARS_MAX) for name in project_ids]


def check_find(prefix: str, *, limit: int, project: str | None) -> None:
    """Check what run ids are found by; see `check_prefix`."""
    check_prefix(prefix)
    check_integer(limit, field="limit", at_least=1, at_most=FOUND_MAX)
    check_optional_text(project, field="project", chars_max=limits.NAME_CHARS_MAX)


def check_prefix(prefix: str) -> str:
    """Check the beginning of a run id.

    Raises:
        InvalidInput: when no run id begins like that.
    """
    if not isinstance(prefix, str) or not 1 <= len(prefix) <= 36 or not _PREFIX_CHARACTERS.issuperset(prefix):
        raise InvalidInput("prefix", f"{prefix!r} begins no run id: 1 to 36 of 0-9, a-f and - do.")
    return prefix


def page_token(wanted: RunFilter, last: PageKey) -> str:
    """Make the token of the page after a row; it works with the same filter only."""
    return urlsafe_b64encode(encode_json([_digest(wanted), *last])).decode().rstrip("=")


def page_key(wanted: RunFilter, token: str | None) -> PageKey | None:
    """Read a page token.

    Raises:
        InvalidInput: when it is no token, or was made for another filter.
    """
    if token is None:
        return None
    if not isinstance(token, str) or len(token) > _TOKEN_CHARS_MAX:
        raise InvalidInput("page_token", _NO_TOKEN)
    try:
        digest, created_at, run_id = _decode_token(urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        check_uuid(run_id, field="page_token")
        if created_at:
            datetime.fromisoformat(created_at)
    except (ValueError, msgspec.MsgspecError) as exc:
        raise InvalidInput("page_token", _NO_TOKEN) from exc
    if digest != _digest(wanted):
        raise InvalidInput("page_token", "was made for another filter; keep the filter while paging, or start anew.")
    return PageKey(created_at, run_id)


_NO_TOKEN: Final = "is none that a list gave; pass `next_page_token` as it came, or None to start anew."

_decode_token = msgspec.json.Decoder(tuple[str, str, str]).decode


def _digest(wanted: RunFilter) -> str:
    return hashlib.sha256(encode_json(wanted)).hexdigest()[:16]
