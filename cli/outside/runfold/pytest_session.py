"""What the pytest plugin does inside a run: hand every counted report to the recorder, and split the tests.

The ledger is written by a process of its own (`cli.execution.recorder`), fed through a pipe. A thread in here would
share the tests' fate instead: it deadlocks children of tests that fork (CPython 3.12 warns of that, and with
`-W error` the warning fails the test), stands still under gevent, and is gone with the first segmentation fault, the
results before it included.

Counts are pytest's own: a report is a result when pytest's summary counts it, in the word that the summary uses.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import suppress
from typing import Any, Final, Protocol

import pytest

from runfold.environment import ShardEnvironment, shard_slice

COUNTED_WORDS: Final = frozenset({"passed", "failed", "skipped", "error", "xfailed", "xpassed"})
"""The words of pytest's summary that stand for results. It counts others too, such as `rerun` and `warnings`."""
ERROR_CHARS_MAX: Final = 8_192
"""As the ledger cuts errors (`ledger.limits.ERROR_CHARS_MAX`), which is not imported in here."""
RECORDER_END_S: Final = 45.0
"""How long a finished test run waits for its last results: a writer's longest wait for a locked file, and a margin."""
LOADED: Final = "RUNFOLD_PYTEST_LOADED"
"""Names the file by which whoever started this pytest sees that the plugin is here."""
ENDING_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def register(config: pytest.Config, environ: Mapping[str, str]) -> None:
    """Register the hooks for this process's part of a run.

    Under pytest-xdist the controller records and the workers split: reports meet at the one, tests at the others.
    """
    try:
        place = ShardEnvironment.read(environ)
    except ValueError as exc:
        raise pytest.UsageError(
            f"runfold: {exc}. Fix the variable, or unset RUNFOLD_RUN_ID to record nothing."
        ) from exc
    if place is None:
        return
    _tell_loaded(environ.get(LOADED))
    if config.option.collectonly:
        return
    planned = None
    if place.splits_pytest and place.plan_file is not None:
        planned = frozenset(_planned(place.plan_file))
        config.pluginmanager.register(PlannedSplit(planned), "runfold-split")
    elif place.splits_pytest and place.shard is not None and place.shard_count > 1:
        config.pluginmanager.register(ShardSplit(place.shard, place.shard_count), "runfold-split")
    if place.records_pytest and not hasattr(config, "workerinput"):
        config.pluginmanager.register(ResultReporter(config, RecorderPipe(environ), planned), "runfold-results")


def _tell_loaded(path: str | None) -> None:
    """Say that the plugin is here; in a container it may be unable to, and the results say it."""
    if path:
        with suppress(OSError), open(path, "a", encoding="utf-8"):
            pass


class RecorderPipe:
    """The recorder process, and the pipe to it. No failure of either reaches the test run."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.sent = 0
        self.trouble: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        # Whoever ends the test run tells its whole process group, and what the tests said before is still to be
        # written. Blocked signals are inherited: the recorder is deaf from its first moment on, and we for a moment.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
        try:
            # -P: the directory that the tests run in may hold a folder named like this package.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "runfold.start", "cli.execution.recorder"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(environ),
            )
        except OSError as exc:
            self.trouble = f"its recorder did not start: {exc}"
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def send(self, result: Mapping[str, Any]) -> None:
        """Hand one result over. It is counted even when it cannot be handed over."""
        self.sent += 1
        self._write(json.dumps(result).encode() + b"\n")

    def finish(self) -> str | None:
        """Wait until everything is recorded.

        Returns:
            What to tell the user when it is not; None when all is well.
        """
        recorded = self._end() if self._process is not None else 0
        if recorded >= self.sent:
            return None
        return f"{self.sent - recorded} of {self.sent} results were not recorded: {self.trouble or 'unknown reason'}"

    def _write(self, line: bytes) -> None:
        if self._process is None or self._process.stdin is None or self.trouble is not None:
            return
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except (OSError, ValueError) as exc:
            self.trouble = f"its recorder is gone: {exc}"

    def _end(self) -> int:
        assert self._process is not None
        # Said in words, since the end of the pipe does not come while a process that a test forked still holds it.
        self._write(b"null\n")
        try:
            said = self._process.communicate(timeout=RECORDER_END_S)[0]
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.trouble = f"its recorder did not finish within {RECORDER_END_S:g} s"
            said = self._process.communicate()[0]
        except (OSError, ValueError) as exc:
            self.trouble = f"its recorder is gone: {exc}"
            return 0
        return self._understand(said.decode(errors="replace").strip())

    def _understand(self, said: str) -> int:
        last_line = said.rpartition("\n")[2]
        try:
            answer = json.loads(last_line)
            if answer["reason"] is not None:
                self.trouble = answer["reason"]
            return int(answer["recorded"])
        except (ValueError, KeyError, TypeError):
            self.trouble = self.trouble or f"its recorder ended early: {last_line or 'it said nothing'}"
            return 0


class ResultReporter:
    """Turns pytest's reports into results.

    Args:
        config: Of this pytest.
        pipe: Where results go.
        planned: The ids of the tests that this shard is to run; None when nobody planned them.
    """

    def __init__(self, config: pytest.Config, pipe: RecorderPipe, planned: frozenset[str] | None = None) -> None:
        self._config = config
        self._planned = planned
        self._pipe: RecorderPipe | None = pipe
        self._trouble: str | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record a phase of a test when pytest counts it: its call, and a set-up or tear-down that says something."""
        answer = self._config.hook.pytest_report_teststatus(report=report, config=self._config)
        word = answer[0] if answer else _plain_word(report)
        if word in COUNTED_WORDS:
            self._send(word, report, report.duration, _skip_reason(report))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Record a file that could not be collected, or that skipped itself: pytest counts those too.

        Where tests were planned, a file that skips itself is none of them: each shard would count it once more.
        """
        if report.failed:
            self._send("error", report, 0.0, None)
        elif report.skipped and (self._planned is None or report.nodeid in self._planned):
            self._send("skipped", report, 0.0, _skip_reason(report))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Wait for the last results, before the summary is written."""
        self._finish()

    def pytest_unconfigure(self) -> None:
        """Finish a session that ended before it began."""
        self._finish()

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say once what was not recorded. Not a warning: `-W error` would turn it into a failure."""
        if self._trouble is not None:
            terminalreporter.write_line(f"runfold: {self._trouble}", yellow=True)

    def _send(self, status: str, report: "Report", duration_s: float, skip_reason: str | None) -> None:
        if self._pipe is None:
            return
        result: dict[str, Any] = {
            "testId": report.nodeid,
            "testName": report.nodeid.partition("::")[2] or report.nodeid,
            "status": status,
            "durationMs": round(duration_s * 1000),
        }
        if status in ("failed", "error"):
            result["error"] = _shorten(report.longreprtext)
        if skip_reason:
            result["skipReason"] = _shorten(skip_reason)
        self._pipe.send(result)

    def _finish(self) -> None:
        if self._pipe is not None:
            self._trouble = self._pipe.finish()
            self._pipe = None


class ShardSplit:
    """Leaves one shard's slice of the tests, and deselects the others."""

    def __init__(self, shard: int, shard_count: int) -> None:
        self._shard = shard
        self._shard_count = shard_count
        self._is_empty_slice = False

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> Generator[None, None, None]:
        """Slice what `-k`, `-m` and other plugins left over, in the order in which it was collected.

        The order of collection is the same in every shard, which the order after a plugin that shuffles is not.
        """
        collected = {item: place for place, item in enumerate(items)}
        yield
        in_order = sorted(items, key=lambda item: collected.get(item, len(collected)))
        mine = set(in_order[shard_slice(len(items), shard=self._shard, shard_count=self._shard_count)])
        self._is_empty_slice = bool(items) and not mine
        others = [item for item in items if item not in mine]
        if others:
            config.hook.pytest_deselected(items=others)
            items[:] = [item for item in items if item in mine]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Let a shard without tests succeed: there are more shards than tests, and the others run them."""
        if self._is_empty_slice and session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK


class PlannedSplit:
    """Leaves the tests that were planned for this shard, and deselects the others.

    Args:
        planned: The ids of its tests; they may be none.
    """

    def __init__(self, planned: frozenset[str]) -> None:
        self._planned = planned
        self._missing: frozenset[str] = frozenset()
        self._is_collected = False

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> Generator[None, None, None]:
        """Pick them from what `-k`, `-m` and other plugins left over; those that are not even there are missing."""
        self._missing = self._planned - {item.nodeid for item in items}
        self._is_collected = True
        yield
        others = [item for item in items if item.nodeid not in self._planned]
        if others:
            config.hook.pytest_deselected(items=others)
            items[:] = [item for item in items if item.nodeid in self._planned]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Let a shard without tests succeed, and one whose tests were not all there fail."""
        if self._missing and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.USAGE_ERROR
        if self._is_collected and not self._planned and session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say which planned tests there are not."""
        if self._missing:
            names = ", ".join(sorted(self._missing)[:3])
            terminalreporter.write_line(
                f"runfold: {len(self._missing)} of {len(self._planned)} planned tests are not there: {names} …",
                red=True,
            )


def _planned(path: str) -> list[str]:
    """Read the ids of the planned tests.

    Raises:
        pytest.UsageError: when they cannot be read: all tests would run instead.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()
    except (OSError, ValueError) as exc:
        raise pytest.UsageError(f"runfold: the planned tests cannot be read: {exc}. Unset RUNFOLD_PLAN.") from exc


class Report(Protocol):
    """What reports of tests and of collectors have in common."""

    nodeid: str

    @property
    def longreprtext(self) -> str: ...


def _plain_word(report: pytest.TestReport) -> str:
    """Give the word that pytest's own last answer has, which is missing with `-p no:terminal`."""
    return "error" if report.failed and report.when != "call" else report.outcome


def _skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str | None:
    expected = getattr(report, "wasxfail", None)
    if expected is not None:
        return str(expected) or None
    if not report.skipped:
        return None
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return report.longreprtext or None


def _shorten(text: str) -> str:
    if len(text) <= ERROR_CHARS_MAX:
        return text
    half = ERROR_CHARS_MAX // 2 - 20
    return f"{text[:half]}\n… {len(text) - 2 * half:,} characters cut …\n{text[-half:]}"
