"""What every reader of result files shares: the result, the error, the limits, and a few tolerant conversions.

Result files come from other programs, and in a build of somebody's pull request from somebody unknown: readers bound
what they take, and refuse what only an attack needs.
"""

import math
from pathlib import Path
from typing import Any, Final

FILE_BYTES_MAX: Final = 256 * 1024 * 1024
"""A suite of 6,209 cases makes 1 MB of JUnit XML, and 13 MB of pytest-reportlog."""
ERROR_CHARS_MAX: Final = 8_192
NAME_CHARS_MAX: Final = 2_000
DURATION_MS_MAX: Final = 10**12
"""More than 31 years: not a duration."""

Result = dict[str, Any]
"""One test result: `testId`, `testName`, `status`, and where known `durationMs`, `error`, `skipReason`."""


class ResultFileError(Exception):
    """A result file cannot be read, or not to its end.

    Args:
        path: The file.
        place: Where in it, such as `line 3, column 7`; empty for the whole file.
        why: What is wrong there.
    """

    def __init__(self, path: Path, place: str, why: str) -> None:
        where = f"{path}, {place}" if place else str(path)
        super().__init__(f"{where}: {why}. The results before it are kept; check what wrote the file.")
        self.path = path
        self.place = place
        self.why = why


def make_result(
    *,
    test_id: str,
    name: str,
    status: str,
    duration_ms: int | None = None,
    error: str = "",
    skip_reason: str = "",
) -> Result:
    """Make a result, its texts cut to their limits and what is not known left out."""
    result: Result = {
        "testId": test_id[:NAME_CHARS_MAX] or "unnamed",
        "testName": name[:NAME_CHARS_MAX] or "unnamed",
        "status": status,
    }
    if duration_ms is not None:
        result["durationMs"] = duration_ms
    if error:
        result["error"] = error[:ERROR_CHARS_MAX]
    if skip_reason:
        result["skipReason"] = skip_reason[:ERROR_CHARS_MAX]
    return result


def milliseconds(seconds: object) -> int | None:
    """Read a duration in seconds, tolerantly; None when it is none.

    Surefire writes `1,234.5`, others an empty text, `NaN` or a negative number when their clock was set back.
    """
    if isinstance(seconds, str):
        seconds = seconds.strip().replace(",", "")
    elif isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    try:
        duration_ms = float(seconds) * 1000
    except (ValueError, OverflowError):
        return None
    return round(duration_ms) if math.isfinite(duration_ms) and 0 <= duration_ms <= DURATION_MS_MAX else None
