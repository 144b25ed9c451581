"""Reads JUnit XML: what Surefire, Gradle, pytest, Jest, Go and most other runners can write.

There is no standard; this takes the union of what those write, case by case and not by the totals that the suites
claim. The file is streamed through expat. Any document type declaration is refused: no runner writes one, and every
known attack (entity expansion, external entities and DTDs) begins with one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from xml.parsers import expat

from cli.results.result_file import (
    ERROR_CHARS_MAX,
    FILE_BYTES_MAX,
    Result,
    ResultFileError,
    make_result,
    milliseconds,
)

DEPTH_MAX: Final = 100
ATTRIBUTES_MAX: Final = 100
_CHUNK_BYTES: Final = 64 * 1024

_BROKEN: Final = {"failure": "failed", "error": "error"}
_RETRIED: Final = frozenset({"flakyFailure", "flakyError", "rerunFailure", "rerunError"})


def read_junit(path: Path) -> Iterator[Result]:
    """Read the results of a file, in their order.

    A case is `error` or `failed` when it holds such an element, `skipped` when it holds that one (`xfailed` when
    pytest says so in it), else `passed`. `flakyFailure` and `flakyError` (it passed when it was repeated) and
    `rerunFailure` and `rerunError` (it did not) are counted as `retries`, and change no status.

    Raises:
        ResultFileError: when the file cannot be read, is no JUnit XML, is malformed, holds a document type
            declaration, or exceeds a limit. The results before that place have been given by then.
    """
    cases = _Cases(path)
    try:
        with path.open("rb") as file:
            left = FILE_BYTES_MAX
            while chunk := file.read(_CHUNK_BYTES):
                left -= len(chunk)
                if left < 0:
                    raise ResultFileError(path, "", f"has more than {FILE_BYTES_MAX:,} bytes")
                yield from _parsed(cases, lambda chunk=chunk: cases.parser.Parse(chunk, False))  # type: ignore[misc]
            yield from _parsed(cases, lambda: cases.parser.Parse(b"", True))
    except OSError as exc:
        raise ResultFileError(path, "", f"cannot be read: {exc.strerror or exc}") from exc


def _parsed(cases: "_Cases", parse: Callable[[], object]) -> Iterator[Result]:
    try:
        parse()
    except expat.ExpatError as exc:
        yield from cases.take()
        place = f"line {exc.lineno}, column {exc.offset + 1}"
        raise ResultFileError(cases.path, place, f"is no well-formed XML: {expat.ErrorString(exc.code)}") from exc
    except (ResultFileError, LookupError, ValueError) as exc:
        yield from cases.take()
        raise exc if isinstance(exc, ResultFileError) else cases.error(f"cannot be decoded: {exc}") from exc
    yield from cases.take()


@dataclass(slots=True)
class _Case:
    """A test case while its element is open."""

    name: str
    class_name: str
    duration_ms: int | None
    status: str = "passed"
    message: str = ""
    text: list[str] = field(default_factory=list)
    retries: int = 0

    def result(self) -> Result:
        said = "".join(self.text).strip()
        detail = said if self.message in said else f"{self.message}\n{said}".strip()
        is_broken = self.status in ("failed", "error")
        result = make_result(
            test_id=f"{self.class_name}::{self.name}" if self.class_name else self.name,
            name=self.name,
            status=self.status,
            duration_ms=self.duration_ms,
            error=detail if is_broken else "",
            skip_reason="" if is_broken or self.status == "passed" else self.message or said,
        )
        if self.retries:
            result["retries"] = self.retries
        return result


class _Cases:
    """Expat's handlers, and the cases that they have completed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.StartDoctypeDeclHandler = self._refuse_doctype
        self.parser.EntityDeclHandler = self._refuse_doctype
        self.parser.ExternalEntityRefHandler = self._refuse_doctype
        self._path_of_suites: list[str] = []
        self._depth = 0
        self._case: _Case | None = None
        self._telling = ""
        self._room = 0
        self._done: list[Result] = []

    def take(self) -> list[Result]:
        done, self._done = self._done, []
        return done

    def error(self, why: str) -> ResultFileError:
        place = f"line {self.parser.CurrentLineNumber}, column {self.parser.CurrentColumnNumber + 1}"
        return ResultFileError(self.path, place, why)

    def _refuse_doctype(self, *_: object) -> int:
        raise self.error("has a document type declaration, which no test report needs and attacks begin with")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        name = tag.rpartition(":")[2]
        self._depth += 1
        if self._depth == 1 and name not in ("testsuites", "testsuite"):
            raise self.error(f"is no JUnit report: it begins with <{tag[:80]}>, not <testsuites> or <testsuite>")
        if self._depth > DEPTH_MAX or len(attributes) > ATTRIBUTES_MAX:
            raise self.error(f"is nested deeper than {DEPTH_MAX} levels, or has more than {ATTRIBUTES_MAX} attributes")
        if name == "testsuite":
            self._path_of_suites.append(attributes.get("name", ""))
        elif name == "testcase":
            suite = self._path_of_suites[-1] if self._path_of_suites else ""
            self._case = _Case(
                name=attributes.get("name", ""),
                class_name=attributes.get("classname") or suite,
                duration_ms=milliseconds(attributes.get("time")),
            )
        elif self._case is not None and not self._telling:
            self._start_in_case(self._case, name, attributes)

    def _start_in_case(self, case: _Case, name: str, attributes: dict[str, str]) -> None:
        if name in _RETRIED:
            case.retries += 1
        elif name in _BROKEN and case.status in ("passed", "skipped", "xfailed"):
            case.status = _BROKEN[name]
            self._tell(case, name, attributes)
        elif name == "skipped" and case.status == "passed":
            case.status = "xfailed" if attributes.get("type") == "pytest.xfail" else "skipped"
            self._tell(case, name, attributes)

    def _tell(self, case: _Case, name: str, attributes: dict[str, str]) -> None:
        self._telling = name
        case.message = attributes.get("message") or attributes.get("type", "")
        case.text.clear()
        self._room = ERROR_CHARS_MAX

    def _text(self, text: str) -> None:
        if self._telling and self._case is not None and self._room > 0:
            self._case.text.append(text[: self._room])
            self._room -= len(text)

    def _end(self, tag: str) -> None:
        name = tag.rpartition(":")[2]
        self._depth -= 1
        if name == self._telling:
            self._telling = ""
        elif name == "testsuite":
            self._path_of_suites.pop()
        elif name == "testcase" and self._case is not None:
            self._done.append(self._case.result())
            self._case, self._telling = None, ""
