"""How `cli.output` prints: what is safe, how wide it is, and which form each reader gets."""

import io
import json
from datetime import UTC, datetime, timedelta

import pytest

from cli.options import duration_of
from cli.output import (
    Cell,
    Column,
    Output,
    cut_to,
    iso,
    length_of,
    output_for,
    printable,
    relative,
    shortened,
    text_width,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


def an_output(stream: io.StringIO | None = None, **more: object) -> Output:
    settings = {"form": "text", "fields": None, "color": "never", "time_style": "auto", **more}
    return output_for(stream or io.StringIO(), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain text, ünïcode, 漢字, 👍", "plain text, ünïcode, 漢字, 👍"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]8;;http://evil\x07link\x1b]8;;\x1b\\", "link"),
        ("\x1bPq#0\x1b\\x", "x"),
        ("a\nb\rc\td", "a\\nb\\rc\\td"),
        ("bell\x07 nul\x00 del\x7f", "bell\\x07 nul\\x00 del\\x7f"),
        ("lone \x1b escape", "lone \\x1b escape"),
        ("\x9b31mc1", "\\x9b31mc1"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("zero\u200bwidth \ufeff", "zero\\u200bwidth \\ufeff"),
        ("line\u2028end", "line\\u2028end"),
        ("tag\U000e0041", "tag\\U000e0041"),
        ("\ud800", "\\ud800"),
    ],
)
def test_printable_when_text_would_do_something(text: str, expected: str) -> None:
    """Sequences go, other control characters are shown, and text that only says something stays."""
    assert expected == printable(text)


def test_printable_when_given_every_character() -> None:
    """No character of any control class gets through, whatever stands beside it."""
    shown = printable("".join(map(chr, range(0x3000))))

    controls = [chr(n) for n in (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))]
    assert [] == [character for character in controls if character in shown]


@pytest.mark.parametrize(("text", "expected"), [("abc", 3), ("漢字", 4), ("e\u0301", 1), ("👍", 2), ("", 0)])
def test_width_when_characters_are_wide_or_combine(text: str, expected: int) -> None:
    """East Asian characters take two columns, combining ones none."""
    assert expected == text_width(text)


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [("abcd", 4, "abcd"), ("abcde", 4, "abc…"), ("漢字漢字", 5, "漢字…"), ("漢字", 2, "…")],
)
def test_cut_when_text_is_too_wide(text: str, width: int, expected: str) -> None:
    """What fits stays; what does not is cut where a whole character ends, and the cut shows."""
    assert expected == cut_to(text, width)


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        (timedelta(0), "now"),
        (timedelta(seconds=1), "1s ago"),
        (timedelta(seconds=119), "1m ago"),
        (timedelta(hours=23, minutes=59), "23h ago"),
        (timedelta(days=30), "30d ago"),
        (timedelta(days=31), "2026-01-29"),
        (-timedelta(minutes=5), "in 5m"),
    ],
)
def test_relative_when_time_goes_by(distance: timedelta, expected: str) -> None:
    """A moment is told from now in its largest unit, and as a date once it is a month away."""
    assert expected == relative(NOON - distance, now=NOON)


def test_iso_when_a_moment_has_another_zone() -> None:
    """Times are written in UTC with six decimals, as the ledger writes them."""
    assert "2026-03-01T12:00:00.000000Z" == iso(NOON.astimezone(UTC))


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [(None, ""), (0, "0ms"), (999, "999ms"), (59_999, "59.9s"), (60_000, "1m 00s"), (7_620_000, "2h 07m")],
)
def test_length_when_it_grows(milliseconds: int | None, expected: str) -> None:
    """A length of time is told in the two units that matter."""
    assert expected == length_of(milliseconds)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", timedelta(seconds=90)),
        ("1h30m", timedelta(minutes=90)),
        ("1.5h", timedelta(minutes=90)),
        ("250ms", timedelta(milliseconds=250)),
        ("2w", timedelta(weeks=2)),
        ("5200w", timedelta(weeks=5_200)),
        ("5200w1ms", None),
        ("", None),
        ("m", None),
        ("5 m", None),
        ("-5m", None),
        ("5y", None),
        ("9" * 40 + "d", None),
        ("٣m", None),
    ],
)
def test_duration_when_written(text: str, expected: timedelta | None) -> None:
    """A duration is numbers with units, or seconds; anything else is none."""
    assert expected == duration_of(text)


def test_ids_when_shortened() -> None:
    """Ids are cut to what tells them apart, and not below their millisecond."""
    apart = ["0199d1a2-0000-7000-8000-000000000001", "0199d1a3-0000-7000-8000-000000000001"]
    alike = ["0199d1a2-0000-7000-8000-000000000001", "0199d1a2-0000-7000-9000-000000000001"]

    assert [13, 20, 13] == [shortened(apart), shortened(alike), shortened([])]


def columns() -> list[Column[dict[str, object]]]:
    return [
        Column("NAME", lambda item: item["name"], is_cut=True),
        Column("WORD", lambda item: item["word"], lambda item: Cell(str(item["word"]), "red")),
        Column("MORE", lambda item: item["more"], only="piped"),
    ]


def an_item(**more: object) -> dict[str, object]:
    return {"name": "n", "word": "w", "more": None, **more}


def test_rows_when_piped() -> None:
    """Piped, rows have no header, empty values are empty, and a value cannot make a column or a line."""
    stream = io.StringIO()

    rows = an_output(stream).rows(columns(), dict)
    rows.write([an_item(name="a\tb\nc"), an_item(more=NOON), an_item(more={"x": "1"}, word=True)])
    rows.close()

    assert "a\\tb\\nc\tw\t\nn\tw\t2026-03-01T12:00:00.000000Z\nn\ttrue\tx=1\n" == stream.getvalue()


def test_rows_when_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal columns are aligned under a header, cut to the width, and colored when wanted."""
    monkeypatch.setenv("COLUMNS", "12")
    stream = Terminal()

    rows = an_output(stream, color="always").rows(columns(), dict)
    rows.write([an_item(name="long name"), an_item(name="漢字漢字")])
    rows.close()

    assert [
        "\x1b[2mNAME\x1b[0m    \x1b[2mWORD\x1b[0m",
        "long …  \x1b[31mw\x1b[0m",
        "漢字…   \x1b[31mw\x1b[0m",
    ] == stream.getvalue().splitlines()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_rows_when_json_is_wanted(count: int) -> None:
    """A JSON array is one document however many batches it came in, and none of them at all."""
    stream = io.StringIO()

    rows = an_output(stream, form="json").rows(columns(), dict, member="items")
    for _ in range(count):
        rows.write([an_item()])
    rows.close(next=None)

    assert {"items": [an_item()] * count, "next": None} == json.loads(stream.getvalue())


def test_rows_when_fields_are_picked() -> None:
    """Only the fields that are wanted are printed, in their order."""
    stream = io.StringIO()

    rows = an_output(stream, form="jsonl", fields=("word", "name")).rows(columns(), dict)
    rows.write([an_item()])
    rows.close()

    assert '{"word":"w","name":"n"}\n' == stream.getvalue()


def test_word_when_the_terminal_has_no_unicode() -> None:
    """Where glyphs cannot be shown, ASCII stands in their place; the word is there in any case."""
    stream = Terminal()
    stream.encoding = "iso8859-1"  # type: ignore[misc]

    assert ["+ completed", "✓ completed"] == [
        output.word("completed").text for output in (an_output(stream), an_output(Terminal()))
    ]
