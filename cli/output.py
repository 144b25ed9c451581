"""What commands print: tables for people, tab-separated text for programs, and JSON.

Whatever a run says of itself is somebody else's text. What could steer a terminal, break a line or turn text around
is never printed to one: `printable` shows it as an escape. JSON escapes it as JSON does, so nothing is lost there.

On a terminal a table has a header, glyphs, colors and times such as `3m ago`, and is cut to the terminal's width.
Piped, the same rows are tab-separated: no header, whole values, ISO times; columns are only ever added at the end.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import TextIOWrapper
from typing import Any, Final, Generic, Literal, NamedTuple, TextIO, TypeVar

Item = TypeVar("Item")
Form = Literal["text", "json", "jsonl"]

_STYLES: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "magenta": "35"}

_GLYPHS: Final[Mapping[str, tuple[str, str, str]]] = {
    "scheduled": ("◷", "@", "blue"),
    "queued": ("○", "o", "blue"),
    "running": ("●", "*", "yellow"),
    "interrupted": ("◌", "~", "magenta"),
    "completed": ("✓", "+", "green"),
    "failed": ("✗", "x", "red"),
    "aborted": ("⊘", "-", "magenta"),
    "passed": ("✓", "+", "green"),
    "blocked": ("⊘", "-", "yellow"),
}
"""Of each status and verdict: a glyph, its form where only ASCII can be shown, and a color."""

_SEQUENCES: Final = r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[PX^_][^\x1b]*\x1b\\)"
"""Whole escape sequences: CSI (colors, cursor), OSC (titles, links), and the string sequences."""
_HIDDEN: Final = "\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb"
_UNSAFE: Final = f"[\x00-\x1f{_HIDDEN}\U000e0000-\U000e0fff\ud800-\udfff]"
"""Control characters of both sets, what turns or hides text, line ends of Unicode, lone surrogates."""
_JSON_UNSAFE: Final = f"[{_HIDDEN}]"
"""What JSON itself does not escape."""

_DAYS_RELATIVE_MAX: Final = 30
_RELATIVE_UNITS: Final = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
_NAMES_WIDTH: Final = 20


class Cell(NamedTuple):
    """One value on a terminal, and how it looks."""

    text: str
    style: str | None = None


class Column(NamedTuple, Generic[Item]):
    """One column of a table.

    Attributes:
        title: Above it, on a terminal.
        value: What programs read: None is empty, a time is in ISO form.
        shown: What a terminal shows; None is the value.
        width: In a table whose rows come one by one: its width there.
        is_cut: Whether it gives way when the terminal is too narrow.
        only: In which form it stands; None is both.
    """

    title: str
    value: Callable[[Item], object]
    shown: Callable[[Item], Cell | str] | None = None
    width: int = 0
    is_cut: bool = False
    only: Literal["terminal", "piped"] | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """How a command's findings are printed.

    Attributes:
        form: Text, one JSON document, or one JSON object a line.
        fields: Which JSON fields; None is all.
        is_terminal: Whether people read it.
        colored: Whether it may be colored.
        is_relative: Whether times are told from now.
        width: Columns of the terminal.
        speaks_unicode: Whether glyphs can be shown.
    """

    stream: TextIO
    form: Form
    fields: tuple[str, ...] | None
    is_terminal: bool
    colored: bool
    is_relative: bool
    width: int
    speaks_unicode: bool

    @property
    def is_json(self) -> bool:
        return self.form != "text"

    def wants(self, field: str) -> bool:
        """Tell whether a JSON field is to be printed, so that what nobody asked for is not read."""
        return self.fields is None or field in self.fields

    def line(self, text: str = "") -> None:
        """Print a line that is safe to print."""
        self.stream.write(text + "\n")

    def flush(self) -> None:
        self.stream.flush()

    def document(self, document: Mapping[str, Any]) -> None:
        """Print one JSON object: on lines of its own for people and `--json`, on one for `--jsonl`."""
        self.line(self.encode(document, indent=2 if self.form == "json" else 0))

    def encode(self, document: Mapping[str, Any], *, indent: int = 0) -> str:
        """Give the JSON of a document's wanted fields."""
        import msgspec

        picked = document if self.fields is None else {name: document.get(name) for name in self.fields}
        encoded = msgspec.json.encode(picked, enc_hook=str)
        if indent:
            encoded = msgspec.json.format(encoded, indent=indent)
        return re.sub(_JSON_UNSAFE, lambda found: f"\\u{ord(found[0]):04x}", encoded.decode())

    def tell(self, text: str) -> None:
        """Say something to people that is no finding: on stderr, and only when they read."""
        if self.is_terminal and not self.is_json:
            sys.stderr.write(text + "\n")

    def paint(self, text: str, style: str | None) -> str:
        """Color a text, if colors are wanted."""
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self.colored and style and text else text

    def word(self, word: str) -> Cell:
        """Give a status or verdict as a terminal shows it: glyph and word."""
        known = _GLYPHS.get(word)
        if known is None:
            return Cell(word, "dim")
        return Cell(f"{known[0] if self.speaks_unicode else known[1]} {word}", known[2])

    def moment(self, moment: datetime | None) -> str:
        """Give a time as it is wanted."""
        if moment is None:
            return ""
        return relative(moment, now=datetime.now(UTC)) if self.is_relative else iso(moment)

    def plain(self, value: object) -> str:
        """Give a value as programs read it; a time is in ISO form unless another is asked for."""
        return self.moment(value) if self.is_relative and isinstance(value, datetime) else _plain(value)

    def rows(
        self,
        columns: Sequence[Column[Item]],
        document: Callable[[Item], Mapping[str, Any]],
        *,
        member: str | None = None,
        is_live: bool = False,
    ) -> "Rows[Item]":
        """Print items as rows, or as the members of a JSON array; see `Rows`."""
        return Rows(self, columns, document, member=member, is_live=is_live)

    def facts(self, facts: "Iterable[tuple[str, object | Cell]]") -> None:
        """Print what is known of one thing, a line each: name and value; on a terminal, only what is not empty."""
        for name, value in facts:
            if not self.is_terminal:
                self.line(f"{name}\t{self.plain(value)}")
                continue
            text, style = value if isinstance(value, Cell) else (str(value or ""), None)
            lines = [self.paint(printable(line), style) for line in text.splitlines()]
            if lines:
                self.line(self.paint(name.ljust(_NAMES_WIDTH), "dim") + f"\n{' ' * _NAMES_WIDTH}".join(lines))


class Rows(Generic[Item]):
    """Prints items one after the other, in the form that is wanted.

    Args:
        output: Where and how.
        columns: What of an item stands where.
        document: All fields of an item.
        member: With `--json`: put the array under this name into an object, beside what `close` is given.
        is_live: Rows come one by one: each is printed at once, in columns of fixed width.
    """

    def __init__(
        self,
        output: Output,
        columns: Sequence[Column[Item]],
        document: Callable[[Item], Mapping[str, Any]],
        *,
        member: str | None = None,
        is_live: bool = False,
    ) -> None:
        self._output = output
        form = "terminal" if output.is_terminal else "piped"
        self._columns = [column for column in columns if column.only in (None, form)]
        self._document = document
        self._member = member
        self._is_live = is_live
        self._widths: list[int] = []
        self.count = 0

    def write(self, items: Sequence[Item]) -> None:
        """Print more items."""
        if self._output.is_json:
            self._write_json(items)
        elif self._output.is_terminal:
            self._write_table(items)
        else:
            for item in items:
                self._output.line("\t".join([self._output.plain(column.value(item)) for column in self._columns]))
        self.count += len(items)
        if self._is_live:
            self._output.flush()

    def close(self, **beside: object) -> None:
        """End the JSON array. Without this the document stays open, as befits one that broke off."""
        if self._output.form != "json":
            return
        if not self.count:
            self._output.line(self._opening())
        end = "]" if self._member is None else f"]{_members(beside)}}}"
        self._output.line(f"\n{end}" if self.count else end)

    def _opening(self) -> str:
        return "[" if self._member is None else f'{{"{self._member}": ['

    def _write_json(self, items: Sequence[Item]) -> None:
        lines = self._output.form == "jsonl"
        for number, item in enumerate(items, self.count):
            text = self._output.encode(self._document(item))
            if lines:
                self._output.line(text)
            else:
                self._output.stream.write(f",\n{text}" if number else f"{self._opening()}\n{text}")

    def _write_table(self, items: Sequence[Item]) -> None:
        rows = [[_shown(column, item) for column in self._columns] for item in items]
        if not self._widths and (rows or self._is_live):
            self._widths = self._fit(rows)
            self._print_row([Cell(column.title, "dim") for column in self._columns])
        for row in rows:
            self._print_row(row)

    def _fit(self, rows: Sequence[Sequence[Cell]]) -> list[int]:
        """Give each column the width it needs, and take what is too much from those that can be cut, widest first."""
        widths = [
            max(
                [
                    len(column.title),
                    column.width,
                    *([] if self._is_live else [text_width(row[at].text) for row in rows]),
                ]
            )
            for at, column in enumerate(self._columns)
        ]
        excess = sum(widths) + 2 * (len(widths) - 1) - self._output.width
        for at in sorted(
            (at for at, column in enumerate(self._columns) if column.is_cut), key=lambda at: widths[at], reverse=True
        ):
            if self._is_live and at == len(widths) - 1:
                widths[at] = max(
                    len(self._columns[at].title), widths[at] - excess
                )  # the last one takes all that is left
                break
            if excess <= 0:
                break
            narrower = max(len(self._columns[at].title), widths[at] - excess, 4)
            excess -= widths[at] - narrower
            widths[at] = narrower
        return widths

    def _print_row(self, cells: Sequence[Cell]) -> None:
        parts = []
        for cell, width in zip(cells, self._widths, strict=True):
            text = cut_to(printable(cell.text), width)
            parts.append(self._output.paint(text, cell.style) + " " * (width - text_width(text)))
        self._output.line("  ".join(parts).rstrip())


def output_for(stream: TextIO, *, form: Form, fields: tuple[str, ...] | None, color: str, time_style: str) -> Output:
    """Decide how to print to a stream.

    Args:
        stream: Usually stdout.
        form: What was asked for.
        fields: JSON fields; None is all.
        color: The setting: `auto`, `always` or `never`.
        time_style: The setting: `auto`, `iso` or `relative`.
    """
    if isinstance(stream, TextIOWrapper):  # an encoding that lacks a character must not end a command
        if form == "text":
            stream.reconfigure(errors="backslashreplace")
        else:
            stream.reconfigure(encoding="utf-8")
    is_terminal = stream.isatty() and form == "text"
    is_plain = os.environ.get("TERM") == "dumb"
    encoding = (stream.encoding or "ascii").lower().replace("-", "").replace("_", "")
    return Output(
        stream=stream,
        form=form,
        fields=fields,
        is_terminal=is_terminal,
        colored=form == "text" and (color == "always" or (color == "auto" and is_terminal and not is_plain)),
        is_relative=time_style == "relative" or (time_style == "auto" and is_terminal),
        width=_columns() if is_terminal else 0,
        speaks_unicode=encoding in ("utf8", "utf16", "gb18030"),
    )


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns


# --- text ---------------------------------------------------------------------------------------------------


def printable(text: str) -> str:
    """Make somebody's text fit for one line: whole escape sequences go, other control characters show as `\\x1b`."""
    if text.isascii() and text.isprintable():
        return text
    return re.sub(_UNSAFE, _escaped, without_sequences(text))


def without_sequences(text: str) -> str:
    """Take the escape sequences out of a text, such as those for colors."""
    return re.sub(_SEQUENCES, "", text) if "\x1b" in text else text


def _escaped(found: "re.Match[str]") -> str:
    named = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(found[0])
    if named is not None:
        return named
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def text_width(text: str) -> int:
    """Give how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_character_width, text))


def _character_width(character: str) -> int:
    if character.isascii():
        return 1
    import unicodedata

    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def cut_to(text: str, width: int) -> str:
    """Cut a text to columns of a terminal, and show that it was cut."""
    if text_width(text) <= width:
        return text
    kept, used = [], 0
    for character in text:
        used += _character_width(character)
        if used > width - 1:
            break
        kept.append(character)
    return "".join(kept) + "…"


def iso(moment: datetime) -> str:
    """Write a moment as the ledger does: UTC, six decimals, `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def relative(moment: datetime, *, now: datetime) -> str:
    """Tell a moment from now: `3m ago`, `in 2h`; a date when it is more than a month away."""
    distance = abs(now - moment)
    if distance.days > _DAYS_RELATIVE_MAX:
        return moment.astimezone().strftime("%Y-%m-%d")
    if distance < timedelta(seconds=1):
        return "now"
    seconds = int(distance.total_seconds())
    text = next(f"{seconds // length}{unit}" for unit, length in _RELATIVE_UNITS if seconds >= length)
    return f"{text} ago" if moment <= now else f"in {text}"


def length_of(milliseconds: int | None) -> str:
    """Give a length of time for people: `350ms`, `12.4s`, `3m 05s`, `2h 07m`."""
    if milliseconds is None:
        return ""
    if milliseconds < 1_000:
        return f"{milliseconds}ms"
    if milliseconds < 60_000:
        return f"{milliseconds // 100 / 10:.1f}s"
    minutes, seconds = divmod(milliseconds // 1_000, 60)
    return f"{minutes}m {seconds:02}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60:02}m"


def shortened(ids: Sequence[str], *, chars_min: int = 13) -> int:
    """Give how many characters tell these ids apart. The first 13 of a UUIDv7 are its millisecond."""
    chars = chars_min
    while chars < 36 and len({one[:chars] for one in ids}) < len(set(ids)):
        chars += 1
    return chars


def _shown(column: Column[Item], item: Item) -> Cell:
    return _cell(_plain(column.value(item)) if column.shown is None else column.shown(item))


def _cell(shown: Cell | str) -> Cell:
    return shown if isinstance(shown, Cell) else Cell(shown)


def _plain(value: object) -> str:
    """Give a value as programs read it from a row."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, Mapping):
        return printable(",".join(f"{name}={part}" for name, part in value.items()))
    return printable(str(value))


def _members(beside: Mapping[str, object]) -> str:
    import msgspec

    return "".join(f', "{name}": {msgspec.json.encode(value).decode()}' for name, value in beside.items())
