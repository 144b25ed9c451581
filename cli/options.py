"""What commands take: the options that several share, and the forms in which values are written.

Nothing here imports the ledger before a command runs, so that help and mistakes are told at once.
"""

import gc
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click

from cli.config import Setting, Settings
from cli.errors import NoLedger
from cli.output import output_for

if TYPE_CHECKING:
    from ledger.api import Ledger
    from ledger.run.values import JsonObject

Command = TypeVar("Command", bound=Callable[..., Any])

if TYPE_CHECKING:
    _Written = click.ParamType[Any]  # generic since click 8.3, and for type checkers only
else:
    _Written = click.ParamType

SYSTEMS: Final = ("sentri", "sprongus", "choo", "sando")
STATUSES: Final = ("scheduled", "queued", "running", "interrupted", "completed", "failed", "aborted")
VERDICTS: Final = ("none", "passed", "failed", "blocked")

INPUT_CHARS_MAX: Final = 8 * 1024 * 1024
"""Of a file or stdin that is read as JSON: far above what a ledger takes, far below what a machine has."""

DURATION_WEEKS_MAX: Final = 5_200
"""A hundred years: what is that far off is no date that anybody means, and further off there are soon none at all."""

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", re.ASCII)
_UNITS: Final = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}


# --- forms of values ----------------------------------------------------------------------------------------


class Duration(_Written):
    """A length of time: `90`, `90s`, `10m`, `1h30m`, `2d`.

    Args:
        at_most: The longest that is taken.
    """

    name = "duration"

    def __init__(self, at_most: timedelta = timedelta(weeks=DURATION_WEEKS_MAX)) -> None:
        self._at_most = at_most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        length = duration_of(value)
        if length is None:
            self.fail(
                f"{value!r} is no duration: 90, 90s, 10m, 1h30m or 2d is, up to {DURATION_WEEKS_MAX}w.", param, ctx
            )
        if length > self._at_most:
            self.fail(f"{value!r} is too long: {self._at_most.total_seconds():g} s is the longest.", param, ctx)
        return length


class Moment(_Written):
    """A moment: ISO 8601, taken as local time when it names no zone, or how long ago, such as `2h`."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        ago = duration_of(value)
        try:
            return (datetime.fromisoformat(value) if ago is None else datetime.now(UTC) - ago).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is no time: 2026-03-01, 2026-03-01T12:00:00Z, or how long ago, such as 2h, is.", param, ctx
            )


class VersionOrMoment(Moment):
    """A version of a run, as a plain number, or a moment."""

    name = "version|time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and value.isascii() and value.isdigit():
            version = int(value) if len(value) <= 16 else 0
            if not 1 <= version < 2**53:
                self.fail(f"{value} is no version: they count from 1.", param, ctx)
            return version
        return super().convert(value, param, ctx)


class Label(_Written):
    """A label: `name=value`."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, text = value.partition("=")
        if not equals or not name:
            self.fail(f"{value!r} is no label: name=value is.", param, ctx)
        return name, text


class RunIdType(_Written):
    """A run id, its beginning, `@last` or `@last-failed`; completed from the newest runs by the shell."""

    name = "run"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        given = [item for item in ("@last", "@last-failed") if item.startswith(incomplete)]
        try:
            from projections.reader import Runs

            with reading_ledger(ctx.params.get("url") or Settings()["url"]) as log:
                runs = Runs(log).list(limit=100).runs
        except Exception:  # a shell that completes must not be shown an error, whatever it is
            runs = []
        return [
            *[CompletionItem(run.id, help=f"{run.status} {run.kind}") for run in runs if run.id.startswith(incomplete)],
            *[CompletionItem(item) for item in given],
        ]


DURATION: Final = Duration()
MOMENT: Final = Moment()
VERSION_OR_MOMENT: Final = VersionOrMoment()
LABEL: Final = Label()
RUN_ID: Final = RunIdType()


def duration_of(text: str) -> timedelta | None:
    """Read a duration; None when it is none, or too long for any use."""
    if text.isascii() and text.isdigit():
        text += "s"
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    try:
        length = sum((float(number) * _UNITS[unit] for number, unit in parts), timedelta())
    except OverflowError:
        return None
    return length if length <= timedelta(weeks=DURATION_WEEKS_MAX) else None


def read_json_object(text: str, *, option: str) -> "JsonObject":
    """Read a JSON object from an option: as it is, from `@file`, or from stdin for `-`.

    Args:
        text: What was given.
        option: Which option, for the errors.

    Raises:
        click.UsageError: when it cannot be read, is no object, or says what readers would understand differently:
            a key twice, or NaN.
    """
    import json

    try:
        value = json.loads(
            _content(text),
            object_pairs_hook=lambda pairs: _without_duplicates(pairs, option),
            parse_constant=lambda word: _refuse_constant(word, option),
        )
    except (OSError, ValueError) as exc:
        raise click.UsageError(
            f"{option} cannot be read as JSON: {exc}. Give an object, @file, or - for stdin."
        ) from exc
    except RecursionError as exc:
        raise click.UsageError(f"{option} is nested too deep to be read. Make it flatter.") from exc
    if not isinstance(value, dict):
        raise click.UsageError(f'{option} is no JSON object; one such as {{"branch": "main"}} is needed.')
    return value


def _content(text: str) -> str:
    if text == "-":
        text = sys.stdin.read(INPUT_CHARS_MAX + 1)
    elif text.startswith("@"):
        with open(text[1:], encoding="utf-8") as file:
            text = file.read(INPUT_CHARS_MAX + 1)
    if len(text) > INPUT_CHARS_MAX:
        raise ValueError(f"it has more than {INPUT_CHARS_MAX:,} characters")
    return text


def _without_duplicates(pairs: list[tuple[str, Any]], option: str) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise click.UsageError(
            f"{option} has the key {twice!r} twice, and readers differ in which one counts. Keep one."
        )
    return value


def _refuse_constant(word: str, option: str) -> NoReturn:
    raise click.UsageError(f"{option} holds {word}, which JSON does not have. Give null or text.")


# --- the ledger ---------------------------------------------------------------------------------------------


as_option = click.option(
    "--as", "spoken", type=click.Choice(SYSTEMS), help="In the words and under the field names of this system."
)


def url_option(command: Command) -> Command:
    """Let a command take `--url`; it is given the setting `url`, wherever that comes from."""
    return click.option(
        "--url",
        "--remote",
        "url",
        metavar="URL",
        callback=_url,
        help="The ledger: sqlite:///path, postgresql://… or https://… of a server.  [RUNFOLD_URL; default:"
        " .runfold/runs.db]",
    )(command)


def _url(context: click.Context, _parameter: click.Parameter, value: str | None) -> Setting | None:
    if context.resilient_parsing and value is None:
        return None  # a shell completes something; whatever is wrong with the settings is told when they are used
    return Settings({"url": value})["url"]


@contextmanager
def reading_ledger(url: Setting) -> "Iterator[Ledger]":
    """Open a ledger to read it. Nothing is made: one that does not exist is an error.

    Raises:
        NoLedger: when there is none.
        LedgerError: when it cannot be opened; see `ledger.open`.
    """
    require_ledger(url)
    from ledger.opening import open as open_ledger

    _prepare_logs(url)
    with open_ledger(url.value, migrate=False) as log:
        _collect_garbage()
        yield log


def metrics_options(command: Command) -> Command:
    """Let a command take where it serves its figures; it is given `metrics_host` and `metrics_port`."""
    command = click.option(
        "--metrics-host", default="127.0.0.1", show_default=True, help="The address of its figures."
    )(command)
    return click.option(
        "--metrics-port", type=click.IntRange(0, 65_535), help="Serve figures for Prometheus here; 0 takes a free one."
    )(command)


@contextmanager
def writing_ledger(url: Setting) -> "Iterator[Ledger]":
    """Open a ledger to write in the user's name; a SQLite ledger that does not exist is made."""
    refuse_memory(url)
    import os

    from ledger.opening import open as open_ledger

    _prepare_logs(url)
    with open_ledger(url.value, actor=Settings()["actor"].value) as log:
        _collect_garbage()
        yield log.bind(traceparent=os.environ.get("TRACEPARENT"))


def _prepare_logs(url: Setting) -> None:
    """Decide what is heard of a connection's troubles; a file has none, and needs no `logging`."""
    if url.value.startswith("sqlite:"):
        return
    import logging

    from cli.worker_logs import log_to_stderr, quiet_drivers

    quiet_drivers()
    if not logging.getLogger("runfold").handlers:
        log_to_stderr(sys.stderr, form="text")


def _collect_garbage() -> None:
    """Begin what `cli.main` put off, without what was imported: that is none."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def require_ledger(url: Setting) -> None:
    """Check that a ledger can be there, before a database makes an empty one.

    Raises:
        NoLedger: when the file does not exist.
        click.UsageError: for a ledger in memory, which ends with its process.
    """
    refuse_memory(url)
    path = url.value.removeprefix("sqlite:///")
    if path != url.value and path and not path.startswith(":"):
        import os

        if not os.path.exists(path):
            raise NoLedger(
                f"there is no ledger at {path} (from {url.origin}). Record a run first, with `runfold exec` or"
                " `runfold enqueue`, or name another ledger with --url."
            )


def refuse_remote(url: Setting, *, command: str) -> None:
    """Refuse a ledger behind a server, for a command that keeps a lease alive on the database itself.

    Raises:
        click.UsageError: when it is one.
    """
    if url.value.startswith(("http://", "https://")):
        raise click.UsageError(
            f"`runfold {command}` needs the ledger's database, and {url.value} is a server. Name its sqlite:///path or"
            " postgresql://…, or report over HTTP from your own program; see `ledger.open`."
        )


def refuse_memory(url: Setting) -> None:
    """Refuse a ledger that nobody else could ever see.

    Raises:
        click.UsageError: when it is in memory.
    """
    if url.value.startswith("memory:"):
        raise click.UsageError(
            "a ledger in memory ends with this command. Name sqlite:///path or postgresql://… instead."
        )


# --- output -------------------------------------------------------------------------------------------------


class JsonCommand(click.Command):
    """A command whose `--json` takes fields or nothing: what cannot begin a field is left to be an argument."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        given = [
            f"--json={ALL_FIELDS}"
            if arg == "--json" and not (index + 1 < end and _may_be_fields(args[index + 1]))
            else arg
            for index, arg in enumerate(args[:end])
        ]
        return super().parse_args(ctx, given + args[end:])


ALL_FIELDS: Final = "*"


def _may_be_fields(arg: str) -> bool:
    return arg[:1].isalpha() or arg[:1] == ","


def output_options(fields: Callable[[], Sequence[str]]) -> Callable[[Command], Command]:
    """Let a command say how it shows what it found; it is given an `Output`.

    Args:
        fields: Gives the names of the JSON fields; called only when some are picked.
    """

    def decorate(command: Command) -> Command:
        @wraps(command)
        def run(
            *args: Any,
            json_fields: str | None,
            as_jsonl: bool,
            color: str | None,
            time_style: str | None,
            **kwargs: Any,
        ) -> Any:
            settings = Settings({"color": color, "time": time_style})
            output = output_for(
                sys.stdout,
                form="jsonl" if as_jsonl else "json" if json_fields is not None else "text",
                fields=None if json_fields in (None, ALL_FIELDS) else _picked(json_fields, fields()),
                color=settings["color"].value,
                time_style=settings["time"].value,
            )
            return command(*args, output=output, **kwargs)

        for option in reversed(_OUTPUT_OPTIONS):
            run = option(run)
        return run  # type: ignore[return-value]

    return decorate


_OUTPUT_OPTIONS: Final = (
    click.option("--json", "json_fields", metavar="[FIELD,…]", help="Print JSON: all fields, or those named."),
    click.option("--jsonl", "as_jsonl", is_flag=True, help="Print JSON, one object a line; with --json, its fields."),
    click.option(
        "--color", type=click.Choice(["auto", "always", "never"]), help="Color what is printed.  [default: auto]"
    ),
    click.option(
        "--time",
        "time_style",
        type=click.Choice(["auto", "iso", "relative"]),
        help="Show times like this.  [default: relative on a terminal]",
    ),
)


def _picked(given: str | None, known: Sequence[str]) -> tuple[str, ...]:
    picked = tuple(name.strip() for name in (given or "").split(","))
    for name in picked:
        if name not in known:
            raise click.UsageError(
                f"--json: {name!r} is no field of this command. Its fields: {', '.join(known)}."
                " To print them all, put --json last."
            )
    return picked
