"""The `results` projection: one row a result that counts.

What counts is decided by the rules of a run (`ledger.run.state`): a newer attempt of a shard takes the place of its
older ones, a run that is tried anew keeps only what was left out before dispatch, and a sequence number that was seen
does not count again. So the rows of a run are as many as its statuses say, which a test holds for any history.
"""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, cast

import msgspec

from ledger import limits
from ledger.errors import InvalidInput
from ledger.run.codec import encode_json
from ledger.run.events import ShardCompleted, ShardRetried, ShardStarted, Started
from ledger.run.state import Tally, is_left_out, unseen
from ledger.run.values import PASSED_RESULTS, SKIPPED_RESULTS, JsonObject, check_integer, check_text
from projections.decoding import AbortedInBytes, FoldEvent, ResultsInBytes, reader_of
from projections.details import (
    RUN_EVENTS,
    DetailsRow,
    Folded,
    Header,
    Layout,
    StoredDetails,
    fold_details,
    restore_details,
    store_details,
)

Outcome = Literal["passed", "failed", "skipped"]
Ranking = Literal["flaky", "slowest", "failing"]
RANKINGS: Final = ("flaky", "slowest", "failing")

UNSHARDED: Final = -1
"""The part of a run with the results of no shard; a shard's part is its number."""
LEFT_OUT: Final = -2
"""The part with the results of tests that were left out before dispatch."""

DURATION_US_MAX: Final = 10**12
"""A longer duration (over 11 days) ranks like this one, so that sums of a million stay integers on every database."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One result.

    Attributes:
        test_id: What the row calls `testId`; None when it has none.
        duration_ms: What the row calls `durationMs`.
        shard: Which shard it came from; None for results of no shard.
        sequence: Its number within the shard's attempt, where the writer counted.
        created_at: When its run was created.
        data: The row as it was appended.
    """

    run_id: str
    project: str | None
    kind: str
    test_id: str | None
    test_name: str | None
    status: str
    duration_ms: float | None
    error: str | None
    shard: int | None
    shard_attempt: int
    sequence: int | None
    created_at: datetime | None
    data: JsonObject


class ResultPage(NamedTuple):
    """Results of one run, in the order in which they first appeared.

    Attributes:
        next_page_token: What to ask the next page with; None when this is the last.
    """

    results: list[Result]
    next_page_token: str | None


class TestSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What the recent runs of a project say of one test.

    Attributes:
        executed: Runs that report something of it other than a skip.
        passed: Those that count as passed; the others failed.
        flaky_score: The share of executed results that are unsteady; see `Results.tests`. 0 is steady, 1 the worst.
        duration_ms: Mean over those of them that tell a duration; None when none does.
        duration_ms_max: The longest of them.
        last: Its newest result, skips included.
    """

    __test__ = False  # its name makes pytest think otherwise

    test_id: str
    executed: int
    passed: int
    failed: int
    flaky_score: float
    duration_ms: float | None
    duration_ms_max: float | None
    last: Result | None


class ResultRow(NamedTuple):
    """What is read of one row."""

    run_id: str
    number: int
    part: int
    kind: str
    project: str | None
    created_at: str
    shard_attempt: int
    sequence: int | None
    data: bytes


class OutcomeRow(NamedTuple):
    """What a comparison reads of one row."""

    number: int
    test_id: str | None
    outcome: str


class RankingFilter(NamedTuple):
    """Which tests to rank, and how.

    Attributes:
        since: Runs created at this time or later, in the ledger's text format; empty for all.
        runs: How many of the newest runs with results are looked at.
    """

    project: str | None
    since: str
    runs: int
    ranking: Ranking
    limit: int


class RankedTest(NamedTuple):
    """What the tables say of one test."""

    test_id: str
    executed: int
    failed: int
    unsteady: int
    timed: int
    duration_us: int
    duration_us_max: int | None


# --- the fold -----------------------------------------------------------------------------------------------


class Part(Tally, omit_defaults=True):
    """What is remembered of one part of a run.

    Attributes:
        attempt: Of the shard.
        count: How many rows it has.
    """

    attempt: int = 1
    count: int = 0


class ResultsState(Folded, omit_defaults=True):
    """What folding on needs.

    Attributes:
        shards: Their parts, by number.
        left_out: How many rows tests have that were left out.
        next_number: Of the next row; numbers are not given again.
    """

    shards: dict[int, Part] = msgspec.field(default_factory=dict)
    unsharded: Part = msgspec.field(default_factory=Part)
    left_out: int = 0
    next_number: int = 0


class _Fields(msgspec.Struct):
    """What columns are made of; rows are anybody's JSON, so each may be anything."""

    testId: Any = None
    status: Any = None
    durationMs: Any = None
    retryCount: Any = None
    retries: Any = None
    skipReason: Any = None


_decode_fields = msgspec.json.Decoder(_Fields).decode
_decode_state = msgspec.json.Decoder(ResultsState).decode
_decode_data = msgspec.json.Decoder(JsonObject).decode

ResultsRow = DetailsRow[ResultsState]

LAYOUT: Final = Layout(
    "result_runs",
    "results",
    (
        ("kind", "text"),
        ("project", "text"),
        ("created_at", "text"),
        ("shard_attempt", "integer"),
        ("sequence", "integer"),
        ("test", "bytes"),
        ("test_id", "text"),
        ("status", "text"),
        ("outcome", "text"),
        ("is_retried", "integer"),
        ("duration_us", "integer"),
        ("data", "bytes"),
    ),
)


@dataclass(frozen=True, slots=True)
class ResultsProjection:
    """Folds events into rows of results. Raise `version` with every change of the fold or of what is stored."""

    name: str = "results"
    version: int = 2

    def read(self, events: Iterable[bytes]) -> list[FoldEvent]:
        """Read a page's events, without what this fold does not look at."""
        return _read(events)

    def fold(self, row: ResultsRow | None, events: Sequence[FoldEvent]) -> ResultsRow:
        """Fold the next events of the row's run and give the row: the given one, changed, or the first for None."""
        if row is None:
            row = DetailsRow(events[0].run_id, ResultsState())
        fold_details(row, events, _apply)
        return row

    def store(self, row: ResultsRow) -> StoredDetails:
        """Give what the tables keep of a row."""
        return store_details(row)

    def weight(self, row: ResultsRow) -> int:
        """Tell how many detail rows a row holds that are not in the tables yet."""
        return len(row.rows)


RESULTS: Final = ResultsProjection()

_read = reader_of(
    [
        *RUN_EVENTS,
        AbortedInBytes,
        ResultsInBytes,
        Started,
        ShardStarted,
        ShardCompleted,
        ShardRetried,
    ]
)


def restore(header: Header) -> ResultsRow:
    """Give a row back as it was when it was stored, to fold on from."""
    return restore_details(header, _decode_state)


def _apply(row: ResultsRow, event: FoldEvent) -> None:
    data = event.data
    if isinstance(data, ResultsInBytes):
        _append(row, data)
    elif isinstance(data, AbortedInBytes):
        for raw in data.skipped:
            _add(row, row.state.unsharded, UNSHARDED, None, bytes(raw), _decode_fields(raw))
    elif isinstance(data, Started):
        if data.attempt > 1:
            _discard_attempt(row)
    elif isinstance(data, ShardStarted | ShardRetried | ShardCompleted) and data.shard is not None:
        _shard_at(row, data.shard, data.shard_attempt)


def _append(row: ResultsRow, event: ResultsInBytes) -> None:
    part = row.state.unsharded if event.shard is None else _shard_at(row, event.shard, event.shard_attempt)
    if part is None:
        return
    first = event.first_sequence
    for index, raw in unseen(part, list(enumerate(event.results)), first=first):
        sequence = None if first is None else first + index
        fields = _decode_fields(raw)
        if event.shard is not None:
            _add(row, part, event.shard, sequence, bytes(raw), fields)
        elif is_left_out({"status": fields.status, "skipReason": fields.skipReason}):
            row.state.left_out += 1
            _add(row, None, LEFT_OUT, sequence, bytes(raw), fields)
        else:
            _add(row, part, UNSHARDED, sequence, bytes(raw), fields)


def _add(row: ResultsRow, part: Part | None, number: int, sequence: int | None, data: bytes, fields: _Fields) -> None:
    attempt = 1
    if part is not None:
        part.count += 1
        attempt = part.attempt
    outcome = outcome_of(fields.status)
    test_id = fields.testId if isinstance(fields.testId, str) and fields.testId else None
    row.add(
        row.state.next_number,
        number,
        row.kind,
        row.project,
        row.created_at,
        attempt,
        sequence,
        None if test_id is None else digest_of_test(test_id),
        test_id,
        fields.status if isinstance(fields.status, str) else "unknown",
        outcome,
        int(outcome == "passed" and (_is_positive(fields.retryCount) or _is_positive(fields.retries))),
        _microseconds(fields.durationMs),
        data,
    )
    row.state.next_number += 1


def _shard_at(row: ResultsRow, number: int, attempt: int) -> Part | None:
    """Give a shard's part at an attempt, a newer one taking the place of what was there; None for an older one."""
    part = row.state.shards.get(number)
    if part is None or attempt > part.attempt:
        if part is not None:
            row.forget([number], count=part.count)
        part = row.state.shards[number] = Part(attempt=attempt)
    return part if attempt == part.attempt else None


def _discard_attempt(row: ResultsRow) -> None:
    """A run is tried anew: what its earlier attempt executed counts no more. Attempts of shards are numbered on."""
    state = row.state
    row.forget([UNSHARDED, *state.shards], count=row.row_count - state.left_out)
    state.shards = {number: Part(attempt=part.attempt) for number, part in state.shards.items() if part.attempt > 1}
    state.unsharded = Part()


def outcome_of(status: object) -> Outcome:
    """Give what a status counts as."""
    if status in PASSED_RESULTS:
        return "passed"
    return "skipped" if status in SKIPPED_RESULTS else "failed"


def digest_of_test(test_id: str) -> bytes:
    """Give what a test is found by: ids may be longer than an index can hold."""
    return hashlib.sha256(test_id.encode()).digest()[:16]


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _microseconds(duration_ms: object) -> int | None:
    if isinstance(duration_ms, bool) or not isinstance(duration_ms, int | float):
        return None
    return round(min(max(duration_ms * 1_000, 0), DURATION_US_MAX))


# --- what is read -------------------------------------------------------------------------------------------


def result_of(row: ResultRow) -> Result:
    """Give a row as a result."""
    data = _decode_data(row.data)
    duration = data.get("durationMs")
    return Result(
        run_id=row.run_id,
        project=row.project,
        kind=row.kind,
        test_id=_text(data.get("testId")) or None,
        test_name=_text(data.get("testName")),
        status=_text(data.get("status")) or "unknown",
        duration_ms=duration if isinstance(duration, int | float) and not isinstance(duration, bool) else None,
        error=_text(data.get("error")),
        shard=row.part if row.part >= 0 else None,
        shard_attempt=row.shard_attempt,
        sequence=row.sequence,
        created_at=datetime.fromisoformat(row.created_at) if row.created_at else None,
        data=data,
    )


def summary_of(test: RankedTest, last: Result | None) -> TestSummary:
    """Give what the tables say of a test, with its newest result."""
    return TestSummary(
        test_id=test.test_id,
        executed=test.executed,
        passed=test.executed - test.failed,
        failed=test.failed,
        flaky_score=test.unsteady / test.executed,
        duration_ms=test.duration_us / test.timed / 1_000 if test.timed else None,
        duration_ms_max=None if test.duration_us_max is None else test.duration_us_max / 1_000,
        last=last,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def check_test_id(test_id: str) -> str:
    """Check the id of a test that is asked for."""
    return check_text(test_id, field="test_id", chars_max=limits.PAYLOAD_BYTES_MAX)


def check_ranking(ranking: str) -> Ranking:
    """Check how tests are to be ranked.

    Raises:
        InvalidInput: when it is no ranking.
    """
    if ranking not in RANKINGS:
        raise InvalidInput("order", f"is {ranking!r}; {', '.join(RANKINGS)} is allowed.")
    return cast(Ranking, ranking)


def page_token(run_id: str, last_number: int) -> str:
    """Make the token of the page after a row; it works with the same run only."""
    return urlsafe_b64encode(encode_json([run_id, last_number])).decode().rstrip("=")


def page_start(run_id: str, token: str | None) -> int:
    """Read a page token: the number of the last row seen, -1 before the first.

    Raises:
        InvalidInput: when it is no token, or was made for another run.
    """
    if token is None:
        return -1
    try:
        of_run, number = _decode_token(urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        check_integer(number, field="page_token", at_least=0)
    except (TypeError, ValueError, msgspec.MsgspecError) as exc:
        raise InvalidInput(
            "page_token", "is none that a page gave; pass `next_page_token` as it came, or None to start anew."
        ) from exc
    if of_run != run_id:
        raise InvalidInput("page_token", "was made for another run; start anew.")
    return number


_decode_token = msgspec.json.Decoder(tuple[str, int]).decode
