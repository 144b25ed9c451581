"""Reads pytest-reportlog files (`pytest --report-log=FILE`), line by line, also while pytest still writes them.

A line is a result when pytest's summary counts it, in the word that the summary uses.
"""

import json
from pathlib import Path
from typing import Any, Final

from cli.results.result_file import FILE_BYTES_MAX, Result, ResultFileError, make_result, milliseconds

LINE_BYTES_MAX: Final = 16 * 1024 * 1024
_READ_BYTES: Final = 1024 * 1024


class ReportLogReader:
    """Follows one file. `read` gives what is new; a line that is not finished waits for its end.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._line_number = 0
        self._partial = b""
        self._results: list[Result] = []

    def read(self, *, is_finished: bool = False) -> list[Result]:
        """Read on from where the last call ended.

        Args:
            is_finished: Whether nobody writes any more: a last line without its end is a line then.

        Returns:
            The new results, and after an error those before it: `ResultFileError.place` says where it ended.

        Raises:
            ResultFileError: when the file cannot be read, a line is no JSON object, or a limit is exceeded. Call
                `take` for the results before that place.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                while chunk := file.read(_READ_BYTES):
                    self._offset += len(chunk)
                    self._feed(chunk)
        except OSError as exc:
            raise ResultFileError(self.path, "", f"cannot be read: {exc.strerror or exc}") from exc
        if is_finished and self._partial:
            last, self._partial = self._partial, b""
            self._read_line(last)
        return self.take()

    def take(self) -> list[Result]:
        """Give the results that were read and not given yet."""
        results, self._results = self._results, []
        return results

    def _feed(self, chunk: bytes) -> None:
        if self._offset > FILE_BYTES_MAX:
            raise self._error(f"the file has more than {FILE_BYTES_MAX:,} bytes")
        *lines, self._partial = (self._partial + chunk).split(b"\n")
        for line in lines:
            self._read_line(line)
        if len(self._partial) > LINE_BYTES_MAX:
            raise self._error(f"has more than {LINE_BYTES_MAX:,} bytes")

    def _read_line(self, line: bytes) -> None:
        self._line_number += 1
        if not line.strip():
            return
        if len(line) > LINE_BYTES_MAX:
            raise self._error(f"has more than {LINE_BYTES_MAX:,} bytes")
        try:
            report = json.loads(line)
        except (ValueError, RecursionError) as exc:
            raise self._error(f"is no JSON: {exc}") from exc
        if not isinstance(report, dict) or not isinstance(report.get("$report_type"), str):
            raise self._error("is no line of a report log: an object with a $report_type is needed")
        result = result_of(report)
        if result is not None:
            self._results.append(result)

    def _error(self, why: str) -> ResultFileError:
        return ResultFileError(self.path, f"line {self._line_number}", why)


def result_of(report: dict[str, Any]) -> Result | None:
    """Give the result in one line's object; None when pytest's summary does not count it."""
    status = _status(report)
    if status is None:
        return None
    node_id = str(report.get("nodeid", ""))
    told = _text(report.get("longrepr"))
    is_broken = status in ("failed", "error")
    return make_result(
        test_id=node_id,
        name=node_id.partition("::")[2] or node_id,
        status=status,
        duration_ms=milliseconds(report.get("duration")),
        error=told if is_broken else "",
        skip_reason="" if is_broken else str(report.get("wasxfail") or "") or told.removeprefix("Skipped: "),
    )


def _status(report: dict[str, Any]) -> str | None:
    outcome = report.get("outcome")
    match report["$report_type"]:
        case "TestReport":
            return _test_status(report, outcome)
        case "CollectReport":
            return {"failed": "error", "skipped": "skipped"}.get(str(outcome))
        case "SubTestReport" | "SubtestReport":
            return "failed" if outcome == "failed" else None
        case _:
            return None


def _test_status(report: dict[str, Any], outcome: object) -> str | None:
    is_call = report.get("when") == "call"
    if "wasxfail" in report and outcome in ("skipped", "passed"):
        return "xfailed" if outcome == "skipped" else "xpassed" if is_call else None
    if outcome == "passed":
        return "passed" if is_call else None
    if outcome == "failed":
        return "failed" if is_call else "error"
    return "skipped" if outcome == "skipped" else None


def _text(longrepr: object) -> str:
    """Give the text of pytest's long representation: a text, a skip's `[file, line, reason]`, or a traceback."""
    if isinstance(longrepr, str):
        return longrepr
    if isinstance(longrepr, list):
        return str(longrepr[-1]) if longrepr else ""
    if not isinstance(longrepr, dict):
        return ""
    lines: list[str] = []
    for entry in _list(_dict(longrepr.get("reprtraceback")).get("reprentries")):
        lines.extend(str(line) for line in _list(_dict(_dict(entry).get("data")).get("lines")))
    return "\n".join(lines) or str(_dict(longrepr.get("reprcrash")).get("message") or "")


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
