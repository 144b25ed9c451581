"""Executes a plan and records it as a run: the one who works on the run, from its request to its terminal event.

One thread (the caller's) starts the commands, reads their output and decides; it never waits for the ledger while
commands run. Results, output and the look at the run's state have a thread each. What happens when a command ends
(reading its result files, writing its last results, completing its shard) happens in a small pool.

The run's terminal event is appended once everything that was said before it is in the log, since a closed run takes
no results. Whoever closes the run meanwhile has won; this execution then stops its commands and says who it was.
"""

import os
import selectors
import socket
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep
from typing import Final, TypeVar

from cli.execution.command_check import trouble_with
from cli.execution.file_results import FileResults
from cli.execution.guardian import Guardian
from cli.execution.judgement import FIRST_ATTEMPT, Failure, ShardEnd, failed_results, judge, succeeded, taken_away
from cli.execution.launcher import NOT_EXECUTABLE, NOT_FOUND
from cli.execution.log_writer import LogWriter
from cli.execution.plan import Plan
from cli.execution.pytest_report import LOADED, PLUGIN_MISSING, missing_plugin, needs_plugin
from cli.execution.result_writer import Recording, ResultWriter
from cli.execution.run_watch import RunWatch
from cli.execution.screen import Screen, describe_results
from cli.execution.shard_process import ShardProcess
from cli.execution.stop import Stop, StopSignals
from cli.settling import settled
from ledger.api import Ledger, Outcome, RunHandle
from ledger.clock import monotonic
from ledger.errors import IllegalTransition, LeaseLost, OutcomeUnknown, RunTaken, StoreUnavailable
from ledger.ids import new_event_ids
from ledger.run.state import Run
from ledger.run.values import clean
from runfold.environment import ShardEnvironment, substitute, substitute_all

SUCCEEDED: Final = 0
DID_NOT_SUCCEED: Final = 1
TIMED_OUT: Final = 124
REFUSED: Final = 5
"""As of every command that another writer was before."""
INTERRUPTED: Final = 130

TICK_S: Final = 0.05
LINGER_S: Final = 1.0
"""What a command leaves behind gets this long to end by itself: the `tee` of `exec > >(tee log)` is still writing."""
LAST_LINES: Final = 20
LEASE_S: Final = 120.0
"""After this long without a sign of life, a sweep settles the run as lost."""
SETTLE_S: Final = 60.0
"""How long the end of a run is tried on a ledger that is out of reach."""
COMMAND_CHARS_MAX: Final = 16_384
"""Of a command in the run's input; the system takes longer ones."""
_FINISHERS_MAX: Final = 8

_T = TypeVar("_T")


@dataclass(slots=True)
class _Shard:
    """One shard while it is executed.

    Attributes:
        ended_at: When its command was seen to have ended.
        kill_at: When what is left of its group is killed; None while nobody asked it to end.
        end: What becomes of it, once its command is gone.
    """

    process: ShardProcess
    writer: ResultWriter | None
    files: FileResults | None
    ended_at: float | None = None
    kill_at: float | None = None
    end: "Future[ShardEnd] | None" = None
    last_lines: dict[str, deque[str]] = field(default_factory=dict)


class Execution:
    """One execution of a plan.

    Args:
        log: The ledger.
        url: The same ledger, absolute, for the commands.
        plan: What to execute.
        screen: What the user sees.
        environ: The environment that the commands get theirs from.
    """

    def __init__(self, log: Ledger, *, url: str, plan: Plan, screen: Screen, environ: Mapping[str, str]) -> None:
        self._log = log
        self._url = url
        self._plan = plan
        self._screen = screen
        self._environ = environ
        self._worker = f"{socket.gethostname()}:{os.getpid()}"
        self._selector = selectors.DefaultSelector()
        self._shards: list[_Shard] = []
        self._stop: Stop | None = None
        self._began_at = 0.0
        self._signals = StopSignals()
        self._pool = ThreadPoolExecutor(_FINISHERS_MAX, thread_name_prefix="runfold shard")

    def run(self) -> int:
        """Execute, and give the exit code.

        Raises:
            LedgerError: when the run cannot be made or claimed, or its end cannot be written.
        """
        with self._signals:
            handle = settled(self._log, self._enqueue, found=lambda appended: RunHandle(appended.run_id))
            state = self._log.state(handle.id)
            if state.is_terminal:
                self._screen.note(f"run {state.id} was executed before under this key: {_describe(state)}")
                return SUCCEEDED if succeeded(state) else DID_NOT_SUCCEED
            self._claim(state)
            self._run_id = state.run_id
            self._screen.note(f"run {state.id} started")
            return self._refuse_missing_command() or self._execute()

    def _enqueue(self) -> RunHandle:
        return self._log.enqueue(
            self._plan.kind,
            project=self._plan.project,
            input={"command": recorded_command(self._plan.command), **self._plan.input},
            labels=self._plan.labels,
            shard_count=self._plan.shard_count,
            idempotency_key=self._plan.idempotency_key,
            exclusive_key=self._plan.exclusive_key,
            on_active=self._plan.on_active,
            worker=self._worker,
        )

    def _claim(self, run: Run) -> None:
        outcome = self._settle(lambda event_id: self._log.start(run.id, worker=self._worker, event_id=event_id))
        if not outcome:
            state = self._log.state(run.id)
            raise RunTaken(run_id=run.id, worker=state.worker, taken_version=state.taken_version)
        self._lease = self._settle(lambda _: self._log.hold(run.id, lease_s=LEASE_S))
        self._log = self._log.under(self._lease)
        self._taken_version = self._lease.token

    def _refuse_missing_command(self) -> int:
        """Fail the run when there is no such command, and give the code that shells give for it; 0 when there is."""
        for shard in range(self._plan.process_count):
            name = substitute(self._plan.command[0], shard=shard, shard_count=self._plan.process_count)
            trouble = trouble_with(name, self._environ)
            if trouble is None:
                continue
            error, is_there = trouble
            category = "command_not_executable" if is_there else "command_not_found"
            self._settle(
                lambda event_id, error=error, category=category: self._log.fail(  # type: ignore[misc]
                    self._run_id, error=error, category=category, event_id=event_id
                )
            )
            self._screen.note(f"{error}. Check its name, its permissions and PATH; run {self._run_id} failed.")
            return NOT_EXECUTABLE if is_there else NOT_FOUND
        return 0

    def _execute(self) -> int:
        self._log_writer = LogWriter(self._log, self._run_id) if self._plan.records_output else None
        self._watch = RunWatch(self._log, self._log.state(self._run_id), lease=self._lease, lease_s=LEASE_S)
        self._guardian = Guardian(self._run_id, self._url)
        self._folder = tempfile.TemporaryDirectory(prefix="runfold-exec-")
        try:
            self._began_at = monotonic()
            try:
                for number in range(self._plan.process_count):
                    self._shards.append(self._start(number))
            except OSError as exc:
                return self._give_up_starting(exc)
            while any(shard.end is None or not shard.end.done() for shard in self._shards):
                self._tick()
            self._finish_output()
            exit_code = self._conclude([shard.end.result() for shard in self._shards if shard.end is not None])
            self._guardian.dismiss()
            return exit_code
        finally:
            # Only after a defect of ours is anything left to kill here; the guardian is not dismissed then.
            for shard in self._shards:
                if shard.end is None:
                    shard.process.kill()
            self._watch.close()
            self._guardian.close()
            self._pool.shutdown()
            self._folder.cleanup()
            self._screen.close()

    # --- starting -------------------------------------------------------------------------------------------

    def _start(self, shard: int) -> _Shard:
        count = self._plan.process_count
        has_files = bool(self._plan.junit or self._plan.reportlog)
        place = ShardEnvironment(
            run_id=self._run_id,
            url=self._url,
            shard=shard,
            shard_count=count,
            splits_pytest=self._plan.splits_pytest,
            records_pytest=not has_files,
            lease_token=self._lease.token,
            worker=self._worker,
        )
        writer = ResultWriter(self._log, self._run_id, shard=shard, waits=True) if has_files else None
        files = None
        if writer is not None:
            files = FileResults(
                junit=substitute_all(self._plan.junit, shard=shard, shard_count=count),
                reportlog=substitute_all(self._plan.reportlog, shard=shard, shard_count=count),
                put=writer.put,
                complain=lambda text: self._complain(shard, text),
            )
        process = ShardProcess(
            substitute_all(self._plan.command, shard=shard, shard_count=count),
            shard=shard,
            environ={**place.over(self._environ), LOADED: str(Path(self._folder.name, f"loaded-{shard}"))},
            guardian=self._guardian,
            selector=self._selector,
            on_line=self._take_line,
        )
        return _Shard(process, writer, files)

    def _give_up_starting(self, error: OSError) -> int:
        """Fail the run because the system has no room for all its processes; end those that it had room for."""
        for shard in self._shards:
            shard.process.kill()
            shard.process.close()
        what = f"shard {len(self._shards)} of {self._plan.process_count} could not be started: {error.strerror}"
        self._settle(
            lambda event_id: self._log.fail(self._run_id, error=what, category="not_started", event_id=event_id)
        )
        self._guardian.dismiss()
        self._screen.note(f"{what}. Ask for fewer shards, or raise the limits; run {self._run_id} failed.")
        return NOT_EXECUTABLE

    # --- while commands run ---------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Read what is there, see who ended and whether to stop; take `TICK_S` at most."""
        if (self._log_writer is not None and self._log_writer.is_full) or not self._selector.get_map():
            sleep(TICK_S)
        else:
            for key, _ in self._selector.select(TICK_S):
                key.data.read(key.fd)
        for shard in self._shards:
            if shard.end is None:
                self._attend(shard)
        self._look_for_stop()
        self._screen.progress(self._watch.state)

    def _attend(self, shard: _Shard) -> None:
        """Bring one shard on: its command ends, then what it left behind, then it is finished."""
        process = shard.process
        is_ended = process.poll() is not None
        now = monotonic()
        if is_ended and shard.ended_at is None:
            shard.ended_at = now
        if shard.ended_at is not None and shard.kill_at is None and now - shard.ended_at >= LINGER_S:
            process.terminate()  # what a command left running would outlive the run, and hold its pipes open
            shard.kill_at = now + self._plan.grace_s
        is_overdue = shard.kill_at is not None and now >= shard.kill_at
        if is_overdue:
            process.kill()
        if is_ended and (is_overdue or (process.is_silent and process.is_gone)):
            process.kill()  # what was born while we looked
            process.close()
            self._guardian.forget(process.process_id)
            shard.end = self._pool.submit(self._finish, shard)

    def _look_for_stop(self) -> None:
        if self._signals.count > 1:
            for shard in self._shards:
                shard.kill_at = 0.0
        if self._stop is not None:
            return
        self._stop = self._reason_to_stop()
        if self._stop is None:
            return
        for shard in self._shards:
            if shard.kill_at is None:
                shard.process.terminate()
                shard.kill_at = monotonic() + self._plan.grace_s

    def _reason_to_stop(self) -> Stop | None:
        if self._signals.first is not None:
            return self._signals.first
        if self._watch.state.is_terminal:
            return Stop.CLOSED
        if taken_away(self._watch.state, taken_version=self._taken_version):
            return Stop.TAKEN
        if self._watch.state.abort_requested_at is not None:
            return Stop.ABORT_REQUESTED
        if all(shard.process.exit_code is not None for shard in self._shards):
            return None
        timeout_s = self._plan.timeout_s
        return Stop.TIMEOUT if timeout_s is not None and monotonic() - self._began_at >= timeout_s else None

    def _take_line(self, number: int, source: str, text: str) -> None:
        self._screen.line(number, source, text)
        self._shards[number].last_lines.setdefault(source, deque(maxlen=LAST_LINES)).append(text)
        if self._log_writer is not None:
            self._log_writer.put(number, source, text)

    def _complain(self, number: int, text: str) -> None:
        self._screen.note(text)
        if self._log_writer is not None:
            self._log_writer.put(number, "runfold", text)

    # --- when a command is gone -----------------------------------------------------------------------------

    def _finish(self, shard: _Shard) -> ShardEnd:
        """Record what is left of a shard, and complete it unless it was cut off. Runs in the pool."""
        number = shard.process.shard
        exit_code = shard.process.exit_code
        assert exit_code is not None
        if shard.files is not None and shard.writer is not None:
            shard.files.finish()
            self._tell_losses(number, shard.writer.close())
            if self._stop is None:
                shard.files.warn_of_missing()
        if self._stop is None:
            with suppress(IllegalTransition, LeaseLost):  # it was handed on; at the end it is looked who has it
                self._settle(
                    lambda _: self._log.complete_shard(
                        self._run_id, number, shard_attempt=FIRST_ATTEMPT, exit_code=exit_code
                    )
                )
        state = self._settle(lambda _: self._log.state(self._run_id))
        said = shard.last_lines.get("stderr") or shard.last_lines.get("stdout") or ()
        return ShardEnd(number, exit_code, failed_results(state, number), tuple(said))

    def _tell_losses(self, number: int, recording: Recording) -> None:
        if recording.lost:
            self._complain(number, f"{recording.lost:,} results were not recorded: {recording.reason}")

    def _finish_output(self) -> None:
        if self._log_writer is None:
            return
        self._log_writer.close()
        if self._log_writer.lost:
            self._screen.note(f"{self._log_writer.lost:,} lines were not recorded: {self._log_writer.reason}")

    # --- the end of the run ---------------------------------------------------------------------------------

    def _conclude(self, ends: Sequence[ShardEnd]) -> int:
        taken = taken_away(self._settle(lambda _: self._log.state(self._run_id)), taken_version=self._taken_version)
        if taken is not None:
            self._screen.note(f"run {self._run_id} {taken}; its commands here ended, and the run is left to others")
            return REFUSED
        outcome = self._close_run(ends)
        state = self._settle(lambda _: self._log.state(self._run_id))
        lost_to = None if outcome is None or outcome.won else outcome.winner
        if lost_to is not None:
            by = f" by {lost_to.actor}" if lost_to.actor else ""
            self._screen.note(f"somebody else ended the run first: `{lost_to.type}`{by} at version {lost_to.version}")
        self._screen.note(f"run {state.id} {_describe(state)}")
        if self._stop is Stop.TIMEOUT:
            return TIMED_OUT
        if self._stop in (Stop.USER, Stop.SHUTDOWN):
            return INTERRUPTED
        return SUCCEEDED if succeeded(state) else DID_NOT_SUCCEED

    def _close_run(self, ends: Sequence[ShardEnd]) -> Outcome | None:
        run_id, log = self._run_id, self._log
        match self._stop:
            case None:
                failure = judge(ends, shard_count=self._plan.process_count) or self._unreported()
                if failure is None:
                    return self._settle(lambda event_id: log.complete(run_id, event_id=event_id))
                return self._settle(
                    lambda event_id: log.fail(
                        run_id,
                        error=failure.error,
                        category=failure.category,
                        failure_summary=failure.headline,
                        event_id=event_id,
                    )
                )
            case Stop.TIMEOUT:
                error = f"timed out after {self._plan.timeout_s:g} s"
                return self._settle(
                    lambda event_id: log.fail(run_id, error=error, category="timeout", event_id=event_id)
                )
            case Stop.CLOSED | Stop.TAKEN:
                return None
            case Stop.USER | Stop.SHUTDOWN | Stop.ABORT_REQUESTED as stop:
                mode = "shutdown" if stop is Stop.SHUTDOWN else "user"
                reason = _ABORT_REASONS[stop]
                return self._settle(lambda event_id: log.abort(run_id, reason=reason, mode=mode, event_id=event_id))

    def _unreported(self) -> Failure | None:
        """Tell that a pytest which was to report did not; any shard's will do, since all have one command."""
        plan = self._plan
        reads_files = bool(plan.junit or plan.reportlog)
        if not needs_plugin(plan.command, splits_pytest=plan.splits_pytest, reads_files=reads_files):
            return None
        has_results = not reads_files and bool(self._settle(lambda _: self._log.state(self._run_id)).statuses)
        if has_results or any(Path(self._folder.name).iterdir()):
            return None
        error = missing_plugin(splits_pytest=plan.splits_pytest)
        return Failure(error=error, category=PLUGIN_MISSING, headline=error)

    def _settle(self, call: Callable[[str], _T]) -> _T:
        """Call until the ledger can be reached and the outcome is known; the event's id makes a second call safe."""
        event_id = new_event_ids(1)[0]
        give_up_at = monotonic() + SETTLE_S
        while True:
            try:
                return call(event_id)
            except (StoreUnavailable, OutcomeUnknown):
                if monotonic() >= give_up_at:
                    raise
            sleep(0.5)


def recorded_command(command: Sequence[str]) -> list[str]:
    """Give a command as the run's input keeps it: storable text, and no more of it than tells what was executed."""
    kept: list[str] = []
    room = COMMAND_CHARS_MAX
    for argument in map(clean, command):
        room -= len(argument)
        if room < 0:
            kept.append(f"… {len(command) - len(kept):,} arguments more")
            break
        kept.append(argument)
    return kept


_ABORT_REASONS: Final = {
    Stop.USER: "interrupted at the terminal",
    Stop.SHUTDOWN: "the executor was asked to end",
    Stop.ABORT_REQUESTED: "an abort was requested",
}


def _describe(run: Run) -> str:
    """Give status, verdict, results and the headline of an error, in one line."""
    text = f"{run.status}, verdict {run.verdict}: {describe_results(run)}"
    headline = run.failure_summary or (run.error or "").partition("\n")[0]
    return f"{text} ({headline})" if headline else text
