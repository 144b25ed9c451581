"""What is logged on stderr: lines for people, or one JSON object a line; and what is not."""

import json
import logging
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from cli.output import printable

_FACTS: Final = (
    "run_id",
    "kind",
    "project",
    "shard",
    "attempt",
    "worker",
    "purpose",
    "traceparent",
    "sink",
    "schedule",
)


def log_to_stderr(stream: TextIO, *, form: str) -> None:
    """Send everything that `runfold` logs to a stream.

    Args:
        stream: Where to.
        form: `text` or `json`.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter("runfold: %(message)s"))
    logger = logging.getLogger("runfold")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def quiet_drivers() -> None:
    """Keep what database drivers log of lost connections at debug: we say ourselves what that means, where it does."""
    for name in ("psycopg", "psycopg.pool"):
        logger = logging.getLogger(name)
        if _at_debug not in logger.filters:
            logger.addFilter(_at_debug)


def _at_debug(record: logging.LogRecord) -> bool:
    record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)


class TextFormatter(logging.Formatter):
    """Writes a record as one line for people: what others said in it neither begins a line nor steers a terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(" ".join(super().formatMessage(record).split()))

    def formatException(self, ei: Any) -> str:
        """Write a traceback, set in: it is the one thing that has more lines, and its error's text may be anybody's."""
        return "\n".join(f"    {printable(line)}" for line in super().formatException(ei).splitlines())


class JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object: time, level, message, and the facts of the run it is about."""

    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: getattr(record, name) for name in _FACTS if getattr(record, name, None) is not None},
        }
        if record.exc_info:
            document["error"] = self.formatException(record.exc_info)
        return json.dumps(document, ensure_ascii=False)
