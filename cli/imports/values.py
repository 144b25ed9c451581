"""Values of other systems' databases, made storable: what cannot be kept as it is, is mended, and that is told."""

import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from ledger import limits
from ledger.run.values import JsonObject, clean

Mend = Callable[[str], None]
"""Is told what was mended."""

_STRING_CHARS_MAX: Final = 100_000
_EPOCH_MS_MIN: Final = 10**11
"""A number that is larger counts milliseconds, not seconds."""


def moment(value: object, *, field: str, mend: Mend) -> datetime | None:
    """Read a time in any of the forms that the systems wrote; None when there is none.

    ISO 8601 with a zone or without (then it is UTC), SQLite's `YYYY-MM-DD HH:MM:SS`, seconds or milliseconds since
    1970.
    """
    if value is None or value == "":
        return None
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value / 1000 if value >= _EPOCH_MS_MIN else value, UTC)
        read = datetime.fromisoformat(str(value).strip())
    except (ValueError, OverflowError, OSError):
        mend(f"{field} {str(value)[:40]!r} is no time and was left out")
        return None
    return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)


def text(value: object) -> str | None:
    """Give a text that can be stored; None when there is none."""
    return None if value is None else clean(str(value))


def integer(value: object, *, field: str, mend: Mend) -> int | None:
    """Give a whole number; None when there is none."""
    if value is None:
        return None
    if isinstance(value, int) and abs(value) <= limits.INTEGER_MAX:
        return int(value)
    mend(f"{field} {str(value)[:40]!r} is no number and was left out")
    return None


def document(value: object, *, field: str, mend: Mend) -> Any:
    """Read a JSON column; malformed JSON is None, as its system read it."""
    if value is None or value == "":
        return None
    try:
        return storable(json.loads(value if isinstance(value, str | bytes) else str(value)), field=field, mend=mend)
    except (ValueError, RecursionError):
        mend(f"{field} is no JSON and was left out")
        return None


def storable(value: Any, *, field: str, mend: Mend, depth: int = 1) -> Any:
    """Give JSON that the ledger takes: NaN is null, a huge integer its text, NUL and lone surrogates U+FFFD."""
    if isinstance(value, str):
        kept = clean(value)
        if len(kept) > _STRING_CHARS_MAX:
            mend(f"a text of {len(kept):,} characters in {field} was cut to {_STRING_CHARS_MAX:,}")
            return kept[:_STRING_CHARS_MAX]
        return kept
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if abs(value) <= limits.INTEGER_MAX else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth >= limits.DEPTH_MAX:
        mend(f"{field} is nested deeper than {limits.DEPTH_MAX} levels; what is deeper is kept as text")
        return json.dumps(value)[:_STRING_CHARS_MAX]
    if isinstance(value, Mapping):
        return {clean(str(key)): storable(item, field=field, mend=mend, depth=depth + 1) for key, item in value.items()}
    return [storable(item, field=field, mend=mend, depth=depth + 1) for item in value]


def result_row(value: Any, *, mend: Mend) -> JsonObject | None:
    """Give one result row; None when it is none."""
    if not isinstance(value, dict):
        mend("a result that is no object was left out")
        return None
    status = value.get("status")
    if not isinstance(status, str) or not 0 < len(status) <= limits.RESULT_STATUS_CHARS_MAX:
        mend(f"a result with the status {str(status)[:40]!r} counts as unknown")
        return {**value, "status": "unknown"}
    return value


def label(value: object, *, field: str, mend: Mend) -> str | None:
    """Give a label's value: text, cut to what a label holds."""
    kept = text(value)
    if kept is not None and len(kept) > limits.KEY_CHARS_MAX:
        mend(f"{field} has {len(kept)} characters and was cut to {limits.KEY_CHARS_MAX}")
        return kept[: limits.KEY_CHARS_MAX]
    return kept
