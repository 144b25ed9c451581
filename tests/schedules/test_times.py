"""When schedules come due: where clocks are set forward and back, and after a pause of any length."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cli.schedules.times import CRON_CHARS_MAX, latest_until, next_after
from ledger.errors import InvalidInput


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def occurrences(cron: str, timezone: str, *, after: str, count: int) -> list[str]:
    """Give what comes after a moment, in the zone's own time with its offset."""
    moment, found = utc(after), []
    for _ in range(count):
        moment = next_after(moment, cron=cron, timezone=timezone)
        found.append(f"{moment.astimezone(ZoneInfo(timezone)):%m-%d %H:%M%z}")
    return found


@pytest.mark.parametrize(
    ("cron", "timezone", "after", "expected"),
    [
        # Berlin skips 02:00 to 03:00 on 2026-03-29: what was due in it runs when it has been skipped.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", ["03-29 03:00+0200", "03-30 02:30+0200"]),
        ("0 3 * * *", "Europe/Berlin", "2026-03-28T12:00", ["03-29 03:00+0200", "03-30 03:00+0200"]),
        ("30 * * * *", "Europe/Berlin", "2026-03-29T00:00", ["03-29 01:30+0100", "03-29 03:30+0200"]),
        # It has 02:00 to 03:00 twice on 2026-10-25: what names the hour runs once, what repeats goes on.
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", ["10-25 02:30+0200", "10-26 02:30+0100"]),
        ("30 * * * *", "Europe/Berlin", "2026-10-25T00:00", ["10-25 02:30+0200", "10-25 02:30+0100"]),
        # New York sets its clocks on other days, and Lord Howe Island by half an hour.
        ("30 2 * * *", "America/New_York", "2026-03-07T12:00", ["03-08 03:00-0400", "03-09 02:30-0400"]),
        ("30 1 * * *", "America/New_York", "2026-10-31T12:00", ["11-01 01:30-0400", "11-02 01:30-0500"]),
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-02T17:00", ["10-04 02:30+1100", "10-05 02:15+1100"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00", ["04-05 01:45+1100", "04-06 01:45+1030"]),
        ("0 0 29 2 *", "UTC", "2026-01-01T00:00", ["02-29 00:00+0000"]),
    ],
)  # fmt: skip
def test_occurrences_when_clocks_are_set(cron: str, timezone: str, after: str, expected: list[str]) -> None:
    """A time that is skipped runs after the gap, one that is repeated runs once, and intervals go by elapsed time."""
    assert expected == occurrences(cron, timezone, after=after, count=len(expected))


@pytest.mark.parametrize(
    ("cron", "timezone"),
    [
        ("* * * *", "UTC"),
        ("* * * * * *", "UTC"),
        ("", "UTC"),
        ("61 * * * *", "UTC"),
        ("0 0 31 2 *", "UTC"),
        ("@daily", "UTC"),
        ("0\0 * * * *", "UTC"),
        ("0 0 * * *", "Europe/Atlantis"),
        ("0 0 * * *", "../../etc/passwd"),
        ("0 0 * * *", ""),
        ("0 0 * * *", "UTC\0"),
    ],
)
def test_next_after_when_it_is_no_schedule(cron: str, timezone: str) -> None:
    """What is no expression or no zone is refused in words."""
    with pytest.raises(InvalidInput):
        next_after(utc("2026-01-01"), cron=cron, timezone=timezone)


def test_cron_when_it_is_too_long() -> None:
    """An expression may be so long, and no longer."""
    longest = "0," * ((CRON_CHARS_MAX - 9) // 2) + "00 * * * *"
    longest = longest.replace(" ", " " * (1 + CRON_CHARS_MAX - len(longest)), 1)
    assert CRON_CHARS_MAX == len(longest)

    next_after(utc("2026-01-01"), cron=longest, timezone="UTC")
    with pytest.raises(InvalidInput):
        next_after(utc("2026-01-01"), cron="0" + longest, timezone="UTC")


CRONS = ["* * * * *", "*/7 * * * *", "5,35 * * * *", "30 2 * * *", "0 1-3 * * *", "15 */5 * * 1-5", "59 23 L * *"]
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]
DAYS = [utc("2026-03-28T20:00"), utc("2026-10-24T20:00"), utc("2026-04-04T10:00"), utc("2026-11-01T00:00")]
"""Around each, a zone sets its clocks."""


def following(first: datetime, cron: str, timezone: str) -> Iterator[datetime]:
    while True:
        yield first
        first = next_after(first, cron=cron, timezone=timezone)


@settings(max_examples=150, deadline=None)
@given(
    cron=st.sampled_from(CRONS),
    timezone=st.sampled_from(ZONES),
    start=st.builds(lambda day, s: day + timedelta(seconds=s), st.sampled_from(DAYS), st.integers(0, 86_400)),
    length_s=st.integers(0, 6 * 3600),
    micros=st.integers(0, 999_999),
)  # fmt: skip
@example(cron="* * * * *", timezone="Europe/Berlin", start=utc("2026-10-25T00:30"), length_s=5400, micros=1)
def test_latest_until_when_many_were_missed(
    cron: str, timezone: str, start: datetime, length_s: int, micros: int
) -> None:
    """The latest of those that were missed is the one that going through all of them ends with."""
    first = next_after(start, cron=cron, timezone=timezone)
    now = first + timedelta(seconds=length_s, microseconds=micros)

    expected = first
    for moment in following(first, cron, timezone):
        if moment > now:
            break
        expected = moment
    assert expected == latest_until(now, first=first, cron=cron, timezone=timezone)


def test_latest_until_when_years_were_missed() -> None:
    """A minute's schedule that rested for twenty years is caught up with at once."""
    found = latest_until(utc("2046-01-01T00:00:30"), first=utc("2026-01-01"), cron="* * * * *", timezone="UTC")

    assert utc("2046-01-01") == found
