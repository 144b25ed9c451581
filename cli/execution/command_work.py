"""Does leased work with a command: what `runfold worker` executes for each run or shard.

The command is told its place as `runfold exec` tells it, and its output, results and exit code are recorded alike. All
of it is written under the lease: once that went to another worker, nothing more gets in.
"""

import logging
import selectors
import tempfile
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.execution.file_results import FileResults
from cli.execution.guardian import Guardian
from cli.execution.judgement import ShardEnd, failed_results, judge
from cli.execution.log_writer import LogWriter
from cli.execution.pytest_report import LOADED, PLUGIN_MISSING, missing_plugin, needs_plugin
from cli.execution.result_writer import ResultWriter
from cli.execution.shard_process import ShardProcess
from cli.worker import NotRetryable, Work, WorkFailed
from ledger.clock import monotonic
from ledger.errors import LedgerError
from ledger.run.codec import encode_json
from ledger.run.leases import Purpose
from ledger.run.state import RunState
from runfold.environment import ShardEnvironment, substitute_all

_TICK_S: Final = 0.05
_LINGER_S: Final = 1.0
"""What a command leaves behind gets this long to end by itself."""
_LAST_LINES: Final = 20

logger = logging.getLogger("runfold.worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command that does the work of a kind.

    Attributes:
        command: The command and its arguments, placeholders and all.
        url: The ledger, absolute, for the command.
        environ: The environment that it gets its own from.
        guardian: Ends the commands when the worker cannot.
        junit: Patterns of JUnit XML files that it writes.
        reportlog: Patterns of pytest-reportlog files that it writes.
        grace_s: Between asking it to end and killing it.
        splits_pytest: Whether each shard's pytest runs its slice of the tests.
    """

    command: tuple[str, ...]
    url: str
    environ: Mapping[str, str]
    guardian: Guardian
    junit: tuple[str, ...] = ()
    reportlog: tuple[str, ...] = ()
    grace_s: float = 5.0
    splits_pytest: bool = False

    def __call__(self, work: Work) -> None:
        """Execute the command to its end.

        Raises:
            WorkFailed: when it did not do its work; the category is `exit_code` or `signal`.
        """
        state = work.log.state(work.run_id)
        with tempfile.TemporaryDirectory(prefix="runfold-work-") as folder:
            place = self._place(work, state, Path(folder))
            loaded = Path(folder) / "loaded"
            failure = judge([_Running(self, work, place, {LOADED: str(loaded)}).run()], shard_count=1)
            if failure is None and not work.is_stopped and self._is_unreported(work, place, loaded):
                raise NotRetryable(missing_plugin(splits_pytest=self.splits_pytest), category=PLUGIN_MISSING)
        if failure is not None and not work.is_stopped:
            raise WorkFailed(failure.error, category=failure.category)

    def _place(self, work: Work, state: RunState, folder: Path) -> ShardEnvironment:
        """Write down what the command may want to read, and say where."""
        (folder / "input.json").write_bytes(encode_json(work.input))
        (folder / "plan.txt").write_text("".join(f"{test_id}\n" for test_id in work.plan), encoding="utf-8")
        is_shard = work.lease.purpose is Purpose.SHARD
        return ShardEnvironment(
            run_id=work.run_id,
            url=self.url,
            shard=work.shard or 0,
            shard_count=state.shard_count or 1,
            shard_attempt=work.lease.token if is_shard else 1,
            splits_pytest=self.splits_pytest,
            records_pytest=not (self.junit or self.reportlog),
            attempt=work.lease.attempt,
            lease_token=None if is_shard else work.lease.token,
            worker=work.lease.worker,
            input_file=str(folder / "input.json"),
            plan_file=str(folder / "plan.txt") if state.has_plan else None,  # a shard may have no tests
        )

    def _is_unreported(self, work: Work, place: ShardEnvironment, loaded: Path) -> bool:
        """Tell whether a pytest that was to report did not."""
        reads_files = bool(self.junit or self.reportlog)
        if not needs_plugin(self.command, splits_pytest=self.splits_pytest, reads_files=reads_files):
            return False
        if loaded.exists() or (place.plan_file and not work.plan):
            return False
        shard = work.log.state(work.run_id).shards.get(place.shard or 0)
        return reads_files or shard is None or not shard.results.statuses


class _Running:
    """One command while it runs."""

    def __init__(self, command: Command, work: Work, place: ShardEnvironment, more: Mapping[str, str]) -> None:
        self._command = command
        self._work = work
        self._selector = selectors.DefaultSelector()
        self._log_writer = LogWriter(work.log, work.run_id)
        self._last_lines: dict[str, deque[str]] = {}
        shard, count = place.shard or 0, place.shard_count
        self._shard = shard
        self._results: ResultWriter | None = None
        self._files: FileResults | None = None
        if command.junit or command.reportlog:
            self._results = ResultWriter(
                work.log, work.run_id, shard=shard, shard_attempt=place.shard_attempt, waits=True
            )
            self._files = FileResults(
                junit=substitute_all(command.junit, shard=shard, shard_count=count),
                reportlog=substitute_all(command.reportlog, shard=shard, shard_count=count),
                put=self._results.put,
                complain=self._complain,
            )
        self._process = ShardProcess(
            substitute_all(command.command, shard=shard, shard_count=count),
            shard=shard,
            environ={**place.over(_traced(command.environ, work.log.traceparent)), **more},
            guardian=command.guardian,
            selector=self._selector,
            on_line=self._take_line,
        )

    def run(self) -> ShardEnd:
        """Follow the command to its end, and record everything."""
        try:
            self._follow()
        finally:
            self._process.kill()  # what was born while we looked, and after a defect of ours all of it
            self._process.close()
            self._command.guardian.forget(self._process.process_id)
            self._selector.close()
            if self._files is not None and self._results is not None:
                self._files.finish()
                recording = self._results.close()
                if recording.lost:
                    self._complain(f"{recording.lost:,} results were not recorded: {recording.reason}")
            self._log_writer.close()
            if self._log_writer.lost:
                self._tell(f"{self._log_writer.lost:,} lines were not recorded: {self._log_writer.reason}")
        exit_code = self._process.exit_code
        assert exit_code is not None
        said = self._last_lines.get("stderr") or self._last_lines.get("stdout") or ()
        return ShardEnd(self._shard, exit_code, self._failed_results(), tuple(said))

    def _follow(self) -> None:
        ended_at: float | None = None
        kill_at: float | None = None
        process = self._process
        while not (process.poll() is not None and process.is_silent and process.is_gone):
            if self._log_writer.is_full or not self._selector.get_map():
                self._work.wait_stopped(_TICK_S)
            for key, _ in self._selector.select(_TICK_S) if self._selector.get_map() else ():
                key.data.read(key.fd)
            now = monotonic()
            if process.exit_code is not None and ended_at is None:
                ended_at = now
            lingers = ended_at is not None and now - ended_at >= _LINGER_S
            if kill_at is None and (self._work.is_stopped or lingers):
                process.terminate()
                kill_at = now + self._command.grace_s
            if kill_at is not None and now >= kill_at:
                process.kill()
                if process.poll() is not None:
                    return

    def _failed_results(self) -> int:
        try:
            return failed_results(self._work.log.state(self._work.run_id), self._shard)
        except LedgerError:
            return 0

    def _complain(self, text: str) -> None:
        self._tell(text)
        self._log_writer.put(self._shard, "runfold", text)

    def _tell(self, text: str) -> None:
        logger.warning("run %s, shard %d: %s", self._work.run_id, self._shard, text)

    def _take_line(self, number: int, source: str, text: str) -> None:
        self._last_lines.setdefault(source, deque(maxlen=_LAST_LINES)).append(text)
        self._log_writer.put(number, source, text)


def _traced(environ: Mapping[str, str], traceparent: str | None) -> Mapping[str, str]:
    """Let a command go on with the trace of its work, not with its worker's."""
    own = {name: value for name, value in environ.items() if name not in ("TRACEPARENT", "TRACESTATE")}
    return own if traceparent is None else {**own, "TRACEPARENT": traceparent}
