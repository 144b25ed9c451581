"""The only file that reads the clock."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]

monotonic = time.monotonic


def utc_now() -> datetime:
    """Give the present moment in UTC."""
    return datetime.now(UTC)
