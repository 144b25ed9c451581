"""`runfold`: the group of all commands, and what becomes of their errors.

It starts fast: a command's module is imported when the command is asked for, the ledger and a database's driver when
it runs. `runfold --help` imports click and this file.
"""

import atexit
import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NamedTuple

import click


class _Entry(NamedTuple):
    """Where a command is, and what the list of commands says of it."""

    section: str
    target: str
    summary: str


_COMMANDS: Final = {
    "exec": _Entry("Runs", "cli.commands.exec:exec_command", "Record any command as a run."),
    "enqueue": _Entry("Runs", "cli.commands.changes:enqueue", "Ask for a run."),
    "worker": _Entry("Runs", "cli.commands.worker:worker", "Execute a command for each run that waits."),
    "stuck": _Entry("Runs", "cli.commands.tasks:stuck", "Tell what makes no progress, and whom it waits for."),
    "sweep": _Entry("Runs", "cli.commands.tasks:sweep", "Settle what dead workers left behind."),
    "retry": _Entry("Runs", "cli.commands.changes:retry", "Repeat a finished run, or one shard of it, as a new run."),
    "abort": _Entry("Runs", "cli.commands.changes:abort", "End runs on purpose."),
    "delete": _Entry("Runs", "cli.commands.bin:delete", "Put finished runs into the recycle bin."),
    "restore": _Entry("Runs", "cli.commands.bin:restore", "Take runs out of the recycle bin."),
    "purge": _Entry("Runs", "cli.commands.bin:purge", "Erase the data of finished runs for good."),
    "import": _Entry("Runs", "cli.commands.imports:import_command", "Bring in the runs of another system."),
    "list": _Entry("Runs", "cli.commands.runs:list_runs", "List runs, newest first."),
    "show": _Entry("Runs", "cli.commands.runs:show", "Show one run, now or as it was."),
    "status": _Entry("Runs", "cli.commands.runs:status", "Tell the status of runs, one line each."),
    "history": _Entry("Runs", "cli.commands.events:history", "Show the events of a run."),
    "logs": _Entry("Runs", "cli.commands.events:logs", "Show the output of a run."),
    "watch": _Entry("Runs", "cli.commands.events:watch", "Follow runs until they end."),
    "tests": _Entry(
        "Results", "cli.commands.results:tests", "Rank tests: flaky, slow or failing; or tell the history of one."
    ),
    "compare": _Entry("Results", "cli.commands.results:compare", "Compare the tests of two runs."),
    "timings": _Entry(
        "Results", "cli.commands.results:timings", "Tell how long the attempts, phases and shards of a run took."
    ),
    "projection": _Entry("Ledger", "cli.commands.projection:projection", "Look after the tables that lists read."),
    "consumer": _Entry("Ledger", "cli.commands.consumer:consumer", "Look after the named readers of the log."),
    "db": _Entry("Ledger", "cli.commands.db:db", "Look after the tables of the ledger."),
    "serve": _Entry("Server", "cli.commands.serve:serve", "Serve the ledger over HTTP."),
    "token": _Entry("Server", "cli.commands.token:token", "Say who may use the HTTP API."),
    "daemon": _Entry("Server", "cli.commands.daemon:daemon", "Sweep, call back, and run schedules."),
    "callback": _Entry("Server", "cli.commands.callback:callback", "Say whom to call when runs end."),
    "schedule": _Entry("Server", "cli.commands.schedule:schedule", "Ask for runs at set times."),
    "relay": _Entry("Server", "cli.commands.relay:relay", "Carry the log to a message broker."),
    "config": _Entry("Other", "cli.commands.config:config", "Show the settings, and where each comes from."),
    "completion": _Entry("Other", "cli.commands.completion:completion", "Print a completion script for a shell."),
}

EXIT_CODES: Final = {
    "RunUnsuccessful": 1,
    "NotAllImported": 1,
    "ClickException": 2,
    "InvalidInput": 2,
    "NoSuchRun": 3,
    "RunNotFound": 3,
    "ConsumerNotFound": 3,
    "NotPermitted": 4,
    "IllegalTransition": 5,
    "Refused": 5,
    "EventIdReused": 5,
    "ConsumerDiffers": 5,
    "BatchLost": 5,
    "IdempotencyMismatch": 6,
    "NoLedger": 7,
    "StoreUnavailable": 7,
    "UnsafeStore": 7,
    "SchemaMismatch": 7,
    "OutcomeUnknown": 7,
    "NotVerified": 8,
    "InvariantBroken": 8,
    "TimedOut": 124,
    "CommandNotExecutable": 126,
    "CommandNotFound": 127,
    "KeyboardInterrupt": 130,
    "Abort": 130,
    "EOFError": 130,
    "BrokenPipeError": 141,
}
"""Which exit code an error ends with, by the name of its class or the nearest parent that is named; see
docs/reference/exit-codes.md. By name, since importing the ledger to end a command that never used it would take longer
than the command. 0 is success."""

DEFECT: Final = 70
"""An error that nobody foresaw (EX_SOFTWARE of sysexits.h): never mistaken for a run's outcome. What the system refused
(a full disk behind a redirection) is told in a line, anything else with its traceback."""

_SILENT: Final = frozenset({"KeyboardInterrupt", "Abort", "EOFError", "BrokenPipeError"})


class _Runfold(click.Group):
    """The group. Its list of commands is written without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, name = entry.target.partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section in dict.fromkeys(entry.section for entry in _COMMANDS.values()):
            with formatter.section(section):
                formatter.write_dl(
                    [(name, entry.summary) for name, entry in _COMMANDS.items() if entry.section == section]
                )

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"there is no command {args[0]!r}.{_similar(args[0])}", ctx)
        return super().resolve_command(ctx, args)


def _similar(word: str) -> str:
    from difflib import get_close_matches

    found = get_close_matches(word, _COMMANDS, n=1)
    return f" Did you mean {found[0]!r}?" if found else ""


def _version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"runfold {version('runfold')}")
        context.exit()


@click.group(
    cls=_Runfold,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="A command's own help has examples: runfold COMMAND --help",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
def runfold() -> None:
    """An event-sourced run ledger: record runs, and see what they did, now or at any moment before.

    \b
    Examples:
      runfold exec test --shards 4 --split-pytest -- pytest
      runfold list -s failed --since 2d
      runfold show @last --shards
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Its arguments; None takes those of the process.

    Returns:
        The exit code.
    """
    if argv is None:
        _hurry()
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(args)
        sys.stdout.flush()  # here, where a reader that is gone can be told from a defect
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        code = _report(error, args)
    return code


def _hurry() -> None:
    """Spare a short command the search for garbage among what it imports, measured a tenth of its time.

    Opening a ledger ends that, since what comes then may go on for hours; see `cli.options`.
    """
    gc.disable()
    atexit.register(gc.freeze)


def _run(args: list[str]) -> int:
    if os.environ.get("_RUNFOLD_COMPLETE"):
        from click.shell_completion import shell_complete

        return shell_complete(runfold, {}, "runfold", "_RUNFOLD_COMPLETE", os.environ["_RUNFOLD_COMPLETE"])
    try:
        with runfold.make_context("runfold", args) as context:
            runfold.invoke(context)
    except click.exceptions.Exit as exit:
        return exit.exit_code
    except click.UsageError as error:
        if type(error).__name__ != "NoArgsIsHelpError" or error.ctx is None:  # a group alone, in click 8.2 and newer
            raise
        click.echo(error.ctx.get_help())
    return 0


def exit_code_of(error: BaseException) -> int:
    """Give the exit code that an error ends with; several errors end with that of the first."""
    if isinstance(error, BaseExceptionGroup):
        return exit_code_of(error.exceptions[0])
    return next((EXIT_CODES[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in EXIT_CODES), DEFECT)


def _report(error: BaseException, args: list[str]) -> int:
    code = exit_code_of(error)
    if isinstance(error, OSError):
        _forget_stdout()
    if not _SILENT.isdisjoint(kind.__name__ for kind in type(error).__mro__):
        return code
    if code == DEFECT and not isinstance(error, OSError):
        import traceback

        traceback.print_exception(error)
    from cli.problems import write_problem

    for each in error.exceptions if isinstance(error, BaseExceptionGroup) else [error]:
        write_problem(each, exit_code_of(each), as_json=_wants_json(args))
    return code


def _wants_json(args: list[str]) -> bool:
    """Tell whether JSON was asked for, even by a command line that cannot be understood."""
    own = args[: args.index("--")] if "--" in args else args
    return any(arg in ("--json", "--jsonl") or arg.startswith("--json=") for arg in own)


def _forget_stdout() -> None:
    """Let the interpreter's own flush at the end go nowhere instead of failing again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
