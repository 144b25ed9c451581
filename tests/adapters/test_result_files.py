"""Result files of other runners: what is read, what is tolerated, and what is refused."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cli.results import junit, reportlog, result_file
from cli.results.junit import read_junit
from cli.results.reportlog import ReportLogReader
from cli.results.result_file import Result, ResultFileError, milliseconds


def a_junit_file(folder: Path, xml: str) -> Path:
    path = folder / "report.xml"
    path.write_text(xml, encoding="utf-8")
    return path


def results_before_error(path: Path) -> tuple[list[Result], ResultFileError]:
    results: list[Result] = []
    cases = read_junit(path)
    try:
        results.extend(cases)
    except ResultFileError as error:
        return results, error
    raise AssertionError(f"{path} was read to its end")


# --- JUnit XML --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inside", "status"),
    [
        ("", "passed"),
        ("<failure message='no'/>", "failed"),
        ("<error message='no'/>", "error"),
        ("<skipped/>", "skipped"),
        ("<skipped type='pytest.xfail' message='known'/>", "xfailed"),
        ("<system-out>failure</system-out>", "passed"),
        ("<failure/><error/>", "failed"),
        ("<skipped/><failure/>", "failed"),
        ("<flakyFailure message='once'/>", "passed"),
        ("<failure/><rerunFailure/>", "failed"),
    ],
)
def test_read_junit_when_a_case_holds_an_element(tmp_path: Path, inside: str, status: str) -> None:
    """The elements inside a case decide its status."""
    path = a_junit_file(
        tmp_path, f"<testsuite><testcase name='a' classname='C' time='0.5'>{inside}</testcase></testsuite>"
    )

    (result,) = read_junit(path)

    assert (status, "C::a", "a", 500) == (result["status"], result["testId"], result["testName"], result["durationMs"])


def test_read_junit_when_suites_are_nested(tmp_path: Path) -> None:
    """Suites stand inside suites, and a case without a class is named after the innermost."""
    path = a_junit_file(
        tmp_path,
        "<testsuites><testsuite name='outer'><testsuite name='inner'><testcase name='a'/></testsuite>"
        "<testcase name='b'/></testsuite></testsuites>",
    )

    names = [result["testId"] for result in read_junit(path)]

    assert ["inner::a", "outer::b"] == names


def test_read_junit_when_a_failure_tells_more(tmp_path: Path) -> None:
    """A failure's message and text become the error, and not what the case printed."""
    path = a_junit_file(
        tmp_path,
        "<testsuite><testcase name='a'><failure message='1 != 2'>Traceback\n<![CDATA[<x>]]></failure>"
        "<system-err>noise</system-err></testcase></testsuite>",
    )

    (result,) = read_junit(path)

    assert "1 != 2\nTraceback\n<x>" == result["error"]


def test_read_junit_when_surefire_repeats_a_test(tmp_path: Path) -> None:
    """Surefire's repetitions are counted, and what they say is not the case's error."""
    path = a_junit_file(
        tmp_path,
        "<testsuite><testcase name='a'><flakyFailure message='first'><stackTrace>at A</stackTrace></flakyFailure>"
        "<flakyError/></testcase></testsuite>",
    )

    (result,) = read_junit(path)

    assert ("passed", 2, False) == (result["status"], result["retries"], "error" in result)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1.5", 1_500), ("1,234.5", 1_234_500), (" 2 ", 2_000), ("", None), ("NaN", None), ("inf", None), ("-1", None),
     ("a while", None), (None, None), (True, None), (0.25, 250), ("1e99", None)],
)  # fmt: skip
def test_milliseconds_when_a_runner_writes_it_its_own_way(text: object, expected: int | None) -> None:
    """A bad duration is no duration, and never an error."""
    assert expected == milliseconds(text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1"])
def test_read_junit_when_it_is_encoded_otherwise(tmp_path: Path, encoding: str) -> None:
    """The encoding that the file declares is followed."""
    path = tmp_path / "report.xml"
    path.write_bytes(
        f"<?xml version='1.0' encoding='{encoding}'?><testsuite><testcase name='é'/></testsuite>".encode(encoding)
    )

    (result,) = read_junit(path)

    assert "é" == result["testName"]


ATTACKS = {
    "entities": "<!DOCTYPE t [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;'>"
    "<!ENTITY c '&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;'>]><testsuite><testcase name='&c;'/></testsuite>",
    "an external entity": "<!DOCTYPE t [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>"
    "<testsuite><testcase name='a'><failure>&x;</failure></testcase></testsuite>",
    "an external DTD": "<!DOCTYPE testsuite SYSTEM 'http://127.0.0.1:9/evil.dtd'><testsuite/>",
    "a parameter entity": "<!DOCTYPE t [<!ENTITY % x SYSTEM 'http://127.0.0.1:9/x'> %x;]><testsuite/>",
    "an empty DTD": "<!DOCTYPE testsuite><testsuite/>",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_read_junit_when_it_is_hostile(tmp_path: Path, attack: str) -> None:
    """A document type declaration is refused where it begins, whatever it holds."""
    path = a_junit_file(tmp_path, ATTACKS[attack])

    with pytest.raises(ResultFileError, match="document type declaration") as refusal:
        list(read_junit(path))

    assert refusal.value.place.startswith("line 1, column ")


def test_read_junit_when_it_breaks_off(tmp_path: Path) -> None:
    """A file that breaks off gives the cases before that, then an error that names file, line and column."""
    path = a_junit_file(tmp_path, "<testsuite>\n<testcase name='a'/>\n<testcase name='b'>")

    results, error = results_before_error(path)

    assert ["a"] == [result["testName"] for result in results]
    assert "line 3, column 20" == error.place
    assert str(error).startswith(f"{path}, line 3, column 20: is no well-formed XML: ")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no element found"),
        (b"not xml", "syntax error"),
        (b"<html/>", "begins with <html>"),
        (b"\x00\x01", "not well-formed"),
        (b"<testsuite>\xff\xfe</testsuite>", "not well-formed"),
        (b"<?xml version='1.0' encoding='nonsense'?><testsuite/>", "encoding"),
        (b"<testsuite>&nbsp;</testsuite>", "undefined entity"),
    ],
)
def test_read_junit_when_it_is_something_else(tmp_path: Path, content: bytes, why: str) -> None:
    """What is no JUnit XML is an error that says why."""
    path = tmp_path / "report.xml"
    path.write_bytes(content)

    with pytest.raises(ResultFileError, match=why):
        list(read_junit(path))


def test_read_junit_when_there_is_no_file(tmp_path: Path) -> None:
    """A file that is not there is an error of the same kind."""
    with pytest.raises(ResultFileError, match="cannot be read: No such file"):
        list(read_junit(tmp_path / "missing.xml"))


@pytest.mark.parametrize(("depth", "is_accepted"), [(junit.DEPTH_MAX, True), (junit.DEPTH_MAX + 1, False)])
def test_read_junit_at_its_depth(tmp_path: Path, depth: int, is_accepted: bool) -> None:
    """Nesting is accepted up to the limit and refused one deeper."""
    path = a_junit_file(tmp_path, "<testsuite>" * depth + "</testsuite>" * depth)

    if is_accepted:
        assert [] == list(read_junit(path))
    else:
        with pytest.raises(ResultFileError, match="nested deeper than 100"):
            list(read_junit(path))


@pytest.mark.parametrize(("spare_bytes", "is_accepted"), [(0, True), (-1, False)])
def test_read_junit_at_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spare_bytes: int, is_accepted: bool
) -> None:
    """A file is accepted up to the limit and refused one byte above."""
    xml = "<testsuite><testcase name='a'/></testsuite>"
    monkeypatch.setattr(junit, "FILE_BYTES_MAX", len(xml) + spare_bytes)
    path = a_junit_file(tmp_path, xml)

    if is_accepted:
        assert 1 == len(list(read_junit(path)))
    else:
        with pytest.raises(ResultFileError, match="more than"):
            list(read_junit(path))


def test_read_junit_when_an_error_is_huge(tmp_path: Path) -> None:
    """A text past the limit is cut while it is read."""
    path = a_junit_file(
        tmp_path, f"<testsuite><testcase name='a'><failure>{'x' * 10**6}</failure></testcase></testsuite>"
    )

    (result,) = read_junit(path)

    assert result_file.ERROR_CHARS_MAX == len(result["error"])


# --- pytest-reportlog -------------------------------------------------------------------------------------------

SUITE = """
import pytest
def test_pass(): pass
def test_fail(): assert 1 == 2
@pytest.mark.skip(reason="not now")
def test_skip(): pass
@pytest.mark.xfail(reason="known")
def test_xfail(): assert 0
@pytest.mark.xfail
def test_xpass(): pass
@pytest.mark.xfail(strict=True)
def test_xpass_strict(): pass
@pytest.fixture
def bad(): raise RuntimeError("set-up")
@pytest.fixture
def bad_end():
    yield
    raise RuntimeError("tear-down")
def test_setup_error(bad): pass
def test_teardown_error(bad_end): pass
def test_both(bad_end): assert 0
def test_subtests(subtests):
    with subtests.test(i=1): pass
    with subtests.test(i=2): assert 0
"""
COUNTS = {"passed": 2, "failed": 5, "skipped": 1, "xfailed": 1, "xpassed": 1, "error": 3}


def a_report(**fields: Any) -> dict[str, Any]:
    return {"$report_type": "TestReport", "nodeid": "a.py::b", "when": "call", "outcome": "passed", **fields}


def test_report_log_when_pytest_wrote_it(tmp_path: Path) -> None:
    """A log that pytest wrote gives the counts of pytest's own summary, and what each result says."""
    (tmp_path / "test_suite.py").write_text(SUITE)
    log = tmp_path / "log.jsonl"
    said = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--report-log", log, "test_suite.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    ).stdout

    results = ReportLogReader(log).read(is_finished=True)

    assert "5 failed, 2 passed, 1 skipped, 1 xfailed, 1 xpassed, 3 errors" in said
    assert COUNTS == dict(Counter(result["status"] for result in results))
    by_name = {result["testName"]: result for result in results}
    assert "assert 1 == 2" in by_name["test_fail"]["error"]
    assert "not now" == by_name["test_skip"]["skipReason"]
    assert "known" == by_name["test_xfail"]["skipReason"]
    assert "test_suite.py::test_pass" == by_name["test_pass"]["testId"]


def test_report_log_when_it_grows(tmp_path: Path) -> None:
    """A line is read once it is whole, and once."""
    log = tmp_path / "log.jsonl"
    line = json.dumps(a_report())
    reader = ReportLogReader(log)

    log.write_text(line[:20])
    first = reader.read()
    log.write_text(line + "\n" + line)
    second = reader.read()
    third = reader.read(is_finished=True)

    assert (0, 1, 1) == (len(first), len(second), len(third))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "is no JSON"),
        ("[1]", "is no line of a report log"),
        ("{}", "is no line of a report log"),
        ('{"$report_type": 1}', "is no line of a report log"),
        ("[" * 100_000, "is no JSON"),
        ("\x00", "is no JSON"),
    ],
)
def test_report_log_when_a_line_is_broken(tmp_path: Path, line: str, why: str) -> None:
    """A broken line is an error that names the line, and the results before it are kept."""
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps(a_report()) + "\n" + line + "\n")
    reader = ReportLogReader(log)

    with pytest.raises(ResultFileError, match=why) as refusal:
        reader.read()

    assert "line 2" == refusal.value.place
    assert ["passed"] == [result["status"] for result in reader.take()]


def test_report_log_when_its_last_line_is_cut_off(tmp_path: Path) -> None:
    """The last line of a pytest that was killed is an error once nobody writes any more."""
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps(a_report()) + "\n" + '{"$report_type": "Te')
    reader = ReportLogReader(log)

    first = reader.read()
    with pytest.raises(ResultFileError) as refusal:
        reader.read(is_finished=True)

    assert (1, "line 2") == (len(first), refusal.value.place)


@pytest.mark.parametrize(
    "fields",
    [
        {"outcome": "rerun"},
        {"when": "setup"},
        {"when": "teardown"},
        {"$report_type": "CollectReport"},
        {"$report_type": "WarningMessage"},
        {"$report_type": "SessionFinish", "exitstatus": 0},
        {"$report_type": "SubTestReport"},
        {"outcome": None},
    ],
)
def test_report_log_when_pytest_does_not_count_it(tmp_path: Path, fields: dict[str, Any]) -> None:
    """A line that the summary does not count is no result."""
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps(a_report(**fields)) + "\n")

    assert [] == ReportLogReader(log).read()


@pytest.mark.parametrize(
    "longrepr", [None, 1, [], {}, {"reprtraceback": 1}, {"reprtraceback": {"reprentries": [None]}}]
)
def test_report_log_when_the_error_has_another_form(tmp_path: Path, longrepr: object) -> None:
    """A failure counts whatever form its representation has."""
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps(a_report(outcome="failed", longrepr=longrepr, duration="NaN")) + "\n")

    (result,) = ReportLogReader(log).read()

    assert {"testId": "a.py::b", "testName": "b", "status": "failed"} == result


@pytest.mark.parametrize(("spare_bytes", "is_accepted"), [(0, True), (-1, False)])
def test_report_log_at_its_line_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spare_bytes: int, is_accepted: bool
) -> None:
    """A line is accepted up to the limit and refused one byte above."""
    line = json.dumps(a_report())
    log = tmp_path / "log.jsonl"
    log.write_text(line + "\n")
    monkeypatch.setattr(reportlog, "LINE_BYTES_MAX", len(line) + spare_bytes)

    if is_accepted:
        assert 1 == len(ReportLogReader(log).read())
    else:
        with pytest.raises(ResultFileError, match="more than"):
            ReportLogReader(log).read()
