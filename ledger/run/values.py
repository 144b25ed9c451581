"""The words of a run that events, state and commands share, and the checks of a single value.

Every check refuses what one of the databases, or a reader in another language, could not carry: the same value gets
the same error whatever the ledger runs on, before anything is written.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec

from ledger import limits
from ledger.errors import InvalidInput

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
"""A point in time; one without a time zone is none, and is not read either."""

JsonObject = dict[str, Any]
"""A JSON object as Python holds it: text keys; text, safe integers, finite floats, booleans, None, lists, objects."""


class Status(StrEnum):
    """Where a run stands. The last three are terminal and absorbing."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    COMPLETED = "completed"
    FAILED = "failed"
    ABORTED = "aborted"

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL


TERMINAL: Final = frozenset({Status.COMPLETED, Status.FAILED, Status.ABORTED})


class Verdict(StrEnum):
    """What results and gates say, whatever the status."""

    NONE = "none"
    PASSED = "passed"
    FAILED = "failed"
    BLOCKED = "blocked"


class GateOutcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    BLOCKED = "blocked"


class OnLost(StrEnum):
    """What becomes of an attempt whose worker is gone."""

    REQUEUE = "requeue"
    FAIL = "fail"
    HOLD = "hold"


class OnShardFailure(StrEnum):
    """What becomes of a run when a shard has failed for good."""

    FAIL_FAST = "fail_fast"
    """The run fails at once; its other workers stop."""
    ALL_DONE = "all_done"
    """The other shards go on; then the run fails."""
    TOLERATE = "tolerate"
    """The other shards go on; then the run completes, with a failed verdict."""


class Policy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What happens to a run when its work is lost or fails.

    Attributes:
        on_lost: When a lease ran out: try again while attempts are left, fail, or hold it for somebody to decide.
        on_shard_failure: When a shard has no attempt left.
        retry_delay_s: Before the second attempt; doubled for each one after, with jitter. 0 tries again at once.
        retry_delay_max_s: The delay grows no further than this.
        timeout_s: How long a worker lets one attempt take; None lets it take its time.
    """

    on_lost: OnLost = OnLost.REQUEUE
    on_shard_failure: OnShardFailure = OnShardFailure.FAIL_FAST
    retry_delay_s: int = 0
    retry_delay_max_s: int = 3_600
    timeout_s: int | None = None


DEFAULT_POLICY: Final = Policy()


PASSED_RESULTS: Final = frozenset({"passed", "warning", "xpassed"})
"""Result statuses that count as passed (a warning does: Sentri's contract)."""
SKIPPED_RESULTS: Final = frozenset({"skipped", "xfailed"})
"""Result statuses that count as neither; every other status counts as failed."""

_RUN_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")
_TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def check_uuid(value: str, *, field: str) -> str:
    """Check an id's form.

    Raises:
        InvalidInput: when it is no UUID in lower-case text.
    """
    if not isinstance(value, str) or _RUN_ID.fullmatch(value) is None:
        raise InvalidInput(field, f"{_shown(value)} is no UUID in lower-case text.")
    return value


def check_text(value: str, *, field: str, chars_max: int, empty: bool = False) -> str:
    """Check one text: a str, not too long, storable on every database.

    Args:
        value: The text.
        field: Its path, for the error.
        chars_max: The most characters it may have.
        empty: Whether it may be empty.

    Raises:
        InvalidInput: when it is no text, is empty, too long, or holds NUL or a lone surrogate.
    """
    if not isinstance(value, str):
        raise InvalidInput(field, f"is {type(value).__name__}; text is needed.")
    if not value and not empty:
        raise InvalidInput(field, "is empty.")
    if len(value) > chars_max:
        raise InvalidInput(field, f"has {len(value):,} characters; {chars_max:,} are allowed.")
    _check_characters(value, field)
    return value


def check_optional_text(value: str | None, *, field: str, chars_max: int) -> str | None:
    """Check a text that may be None; see `check_text`."""
    return None if value is None else check_text(value, field=field, chars_max=chars_max)


def check_names(names: Sequence[str], *, field: str) -> list[str]:
    """Check a list of names.

    Raises:
        InvalidInput: when it is none, or one of them is.
    """
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise InvalidInput(field, f"is {type(names).__name__}; a list of names is needed.")
    return [check_text(name, field=field, chars_max=limits.NAME_CHARS_MAX) for name in names]


def check_lease_s(lease_s: float) -> float:
    """Check how long a lease is to last, in seconds.

    Raises:
        InvalidInput: when it is no number, or out of range.
    """
    if isinstance(lease_s, bool) or not isinstance(lease_s, int | float):
        raise InvalidInput("lease_s", f"is {type(lease_s).__name__}; a number of seconds is needed.")
    if not limits.LEASE_S_MIN <= lease_s <= limits.DELAY_S_MAX:
        raise InvalidInput("lease_s", f"is {lease_s}; {limits.LEASE_S_MIN} to {limits.DELAY_S_MAX:,} is allowed.")
    return lease_s


def check_integer(
    value: int, *, field: str, at_least: int = -limits.INTEGER_MAX, at_most: int = limits.INTEGER_MAX
) -> int:
    """Check one integer.

    Raises:
        InvalidInput: when it is no integer (a bool is none) or out of range.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidInput(field, f"is {type(value).__name__}; an integer is needed.")
    if not at_least <= value <= at_most:
        raise InvalidInput(field, f"is {value}; {at_least} to {at_most} is allowed.")
    return value


def check_flag(value: bool, *, field: str) -> bool:
    """Check a yes or no.

    Raises:
        InvalidInput: when it is neither True nor False.
    """
    if not isinstance(value, bool):
        raise InvalidInput(field, f"is {type(value).__name__}; True or False is needed.")
    return value


def check_time(value: datetime, *, field: str) -> datetime:
    """Check one moment and give it in UTC.

    Raises:
        InvalidInput: when it carries no time zone, or lies before the year 1 or after 9999 in UTC.
    """
    if not isinstance(value, datetime):
        raise InvalidInput(field, f"is {type(value).__name__}; a datetime is needed.")
    if value.tzinfo is None:
        raise InvalidInput(field, f"{value.isoformat()} has no time zone; give it one, for example UTC.")
    try:
        return value.astimezone(UTC)
    except OverflowError as exc:
        raise InvalidInput(field, f"{value.isoformat()} lies outside the years 1 to 9999 in UTC.") from exc


def check_callback_url(value: str, *, field: str) -> str:
    """Check the URL of a callback: its form, not where it leads, which is judged at the time of each call.

    Raises:
        InvalidInput: when it is no http or https URL with a host, or holds a name and a password, or spaces.
    """
    check_text(value, field=field, chars_max=limits.URL_CHARS_MAX)
    if not value.isascii() or not value.isprintable() or " " in value:
        raise InvalidInput(field, "holds what no URL does; write it as printable ASCII without spaces.")
    try:
        parts = urlsplit(value)
        has_place = bool(parts.hostname) and parts.port != 0
    except ValueError as exc:
        raise InvalidInput(field, f"is no URL: {exc}.") from exc
    if parts.scheme not in ("http", "https") or not has_place:
        raise InvalidInput(field, "is no URL of a callback: https://host/path is.")
    if "@" in parts.netloc:
        raise InvalidInput(field, "holds a user's name or password; calls are signed instead, so leave them out.")
    return value


def check_traceparent(value: str | None) -> str | None:
    """Give a W3C trace context back if it is valid; an invalid one is ignored, as the standard says."""
    return value if isinstance(value, str) and _TRACEPARENT.fullmatch(value) else None


def check_labels(labels: Mapping[str, str] | None, *, field: str = "labels") -> dict[str, str]:
    """Check labels and give them in the order of their names.

    Raises:
        InvalidInput: when there are too many, or a name or value is no fit text.
    """
    if labels is None:
        return {}
    if not isinstance(labels, Mapping):
        raise InvalidInput(field, f"is {type(labels).__name__}; a mapping of text to text is needed.")
    if len(labels) > limits.LABELS_MAX:
        raise InvalidInput(field, f"has {len(labels)} labels; {limits.LABELS_MAX} are allowed.")
    for name, value in labels.items():
        check_text(name, field=f"{field} name", chars_max=limits.KEY_CHARS_MAX)
        check_text(value, field=f"{field}.{name}", chars_max=limits.KEY_CHARS_MAX, empty=True)
    return dict(sorted(labels.items()))


def check_json(value: object, *, field: str) -> None:
    """Check that a value is JSON which every database and reader keeps exactly.

    Raises:
        InvalidInput: with the path of the first value that is not: NaN or infinity, an integer past 2^53, NUL, a
            lone surrogate, a key that is no text, a type that JSON has not, nesting deeper or more values than
            allowed.
    """
    budget = [limits.NODES_MAX]
    _check_node(value, field, 1, budget)


def _is_plain(value: JsonObject) -> bool:
    """Tell quickly that an object is flat and fine, as nearly every test result is; False tells nothing."""
    for key, item in value.items():
        kind = type(item)
        if kind is str:
            if not item.isascii() or "\0" in item:
                return False
        elif kind is int:
            if not -limits.INTEGER_MAX <= item <= limits.INTEGER_MAX:
                return False
        elif kind is float:
            if not math.isfinite(item):
                return False
        elif item is not None and kind is not bool:
            return False
        if type(key) is not str or not key.isascii() or "\0" in key:
            return False
    return len(value) <= limits.NODES_MAX


def _check_node(value: object, path: str, depth: int, budget: list[int]) -> None:
    kind = type(value)
    if kind is str:
        _check_characters(value, path)  # type: ignore[arg-type]
    elif kind is int:
        if not -limits.INTEGER_MAX <= value <= limits.INTEGER_MAX:  # type: ignore[operator]
            raise InvalidInput(path, "is an integer past 2^53, which other readers round; send it as text.")
    elif kind is float:
        if not math.isfinite(value):  # type: ignore[arg-type]
            raise InvalidInput(path, f"is {value}, which JSON does not have; send null or text.")
    elif kind is dict or kind is list:
        if depth > limits.DEPTH_MAX:
            raise InvalidInput(path, f"is nested deeper than {limits.DEPTH_MAX} levels.")
        budget[0] -= len(value)  # type: ignore[arg-type]
        if budget[0] < 0:
            raise InvalidInput(path, f"brings it to more than {limits.NODES_MAX:,} values.")
        if kind is dict:
            _check_object(value, path, depth, budget)  # type: ignore[arg-type]
        else:
            for index, item in enumerate(value):  # type: ignore[arg-type, var-annotated]
                _check_node(item, f"{path}[{index}]", depth + 1, budget)
    elif value is not None and kind is not bool:
        raise InvalidInput(path, f"is {kind.__name__}, which JSON does not have.")


def _check_object(value: JsonObject, path: str, depth: int, budget: list[int]) -> None:
    for key, item in value.items():
        if type(key) is not str:
            raise InvalidInput(path, f"has the key {_shown(key)}, which is no text.")
        if not key.isascii() or "\0" in key:
            _check_characters(key, f"{path} key")
        if type(item) is str and item.isascii() and "\0" not in item:
            continue  # nearly every value of a test result; spares the call and the path
        _check_node(item, f"{path}.{key}", depth + 1, budget)


def _check_characters(value: str, path: str) -> None:
    if "\0" in value:
        raise InvalidInput(path, "holds the character NUL, which PostgreSQL cannot store.")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as exc:
            raise InvalidInput(path, f"holds a lone surrogate at character {exc.start}, which is no text.") from exc


def cut(text: str, *, chars_max: int) -> str:
    """Cut a text to a size, keeping its head and its tail, and say how much is missing."""
    if len(text) <= chars_max:
        return text
    note = f"\n… {len(text) - chars_max:,} characters cut …\n"
    kept = chars_max - len(note)
    return text[: kept // 2] + note + text[len(text) - (kept - kept // 2) :]


def clean(text: str) -> str:
    """Make any text storable: NUL and lone surrogates become U+FFFD. For output that nobody chose, such as logs."""
    return text if text.isascii() and "\0" not in text else _UNSTORABLE.sub("\ufffd", text)


def one_event_id(event_id: str | None, *, event_count: int) -> list[str] | None:
    """Give the ids of what makes one event when its writer has chosen one.

    Raises:
        InvalidInput: when it makes several.
    """
    if event_id is not None and event_count > 1:
        raise InvalidInput("event_id", f"is one id, and this makes {event_count} events; send fewer at once.")
    return None if event_id is None else [event_id]


def check_results(results: Sequence[Mapping[str, Any]], *, field: str = "results") -> list[JsonObject]:
    """Check test results: each an object with a `status`.

    Raises:
        InvalidInput: with the path of the first value that cannot be stored.
    """
    if type(results) is not list and (isinstance(results, str | bytes) or not isinstance(results, Sequence)):
        raise InvalidInput(field, f"is {type(results).__name__}; a list of objects is needed.")
    for index, result in enumerate(results):
        if type(result) is not dict:
            raise InvalidInput(f"{field}[{index}]", f"is {type(result).__name__}; an object is needed.")
        status = result.get("status")
        if type(status) is not str or not 0 < len(status) <= limits.RESULT_STATUS_CHARS_MAX:
            raise InvalidInput(
                f"{field}[{index}].status",
                f"is {_shown(status)}; a text such as passed, failed or skipped is needed,"
                f" {limits.RESULT_STATUS_CHARS_MAX} characters at most.",
            )
        if not _is_plain(result):
            check_json(result, field=f"{field}[{index}]")
    return list(results)  # type: ignore[arg-type]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
