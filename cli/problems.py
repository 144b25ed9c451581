"""How an error is told: one line on stderr for people, a JSON problem object (RFC 9457) for programs."""

import json
import re
import sys
from typing import Any, Final

import click

from cli.output import printable

TYPE_PREFIX: Final = "urn:runfold:problem:"

_FIELDS: Final = (
    "run_id",
    "run_ids",
    "field",
    "status",
    "command",
    "key",
    "active_run_id",
    "expected_version",
    "version",
    "closed_version",
    "worker",
)
"""What errors know beside their message, where they have it."""


def write_problem(error: BaseException, code: int, *, as_json: bool) -> None:
    """Tell an error on stderr; one without a message is not told.

    Args:
        error: What happened.
        code: The exit code that the command ends with.
        as_json: Whether JSON was asked for.
    """
    if isinstance(error, click.ClickException) and not error.format_message():
        return
    text = json.dumps(problem(error, code), ensure_ascii=True) if as_json else f"error: {printable(_told(error))}"
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def problem(error: BaseException, code: int) -> dict[str, Any]:
    """Give an error as a problem object: type, title and detail, the exit code, and what else the error knows."""
    words = re.sub(r"(?<!^)(?=[A-Z])", "-", type(error).__name__).lower()
    known = {name: getattr(error, name) for name in _FIELDS if getattr(error, name, None) is not None}
    winner = getattr(error, "winner", None)
    if winner is not None:
        from cli.documents import winner_document

        known["winner"] = winner_document(winner)
    return {
        "type": TYPE_PREFIX + words,
        "title": words.replace("-", " ").capitalize(),
        "detail": _told(error),
        "exit_code": code,
        **{name: value if isinstance(value, int | list | dict) else str(value) for name, value in known.items()},
    }


def _told(error: BaseException) -> str:
    """Give the message in one line; for a mistake in the command line, with where help is."""
    if not isinstance(error, click.ClickException):
        return " ".join(_words(error).split()) or type(error).__name__
    message = " ".join(error.format_message().split())
    if isinstance(error, click.UsageError) and error.ctx is not None:
        end = "" if message.endswith((".", "?", "!")) else "."
        return f"{message}{end} See `{error.ctx.command_path} --help`."
    return message


def _words(error: BaseException) -> str:
    if not isinstance(error, Exception) or type(error).__name__ != "OutcomeUnknown":
        return str(error)  # and the ledger is not imported to say so
    from cli.settling import in_words

    return in_words(error)
