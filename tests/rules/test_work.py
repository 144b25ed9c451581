"""What becomes of leased work: when it is tried again, and why it is not."""

from datetime import timedelta
from itertools import pairwise

import pytest
from builders import NOON
from hypothesis import given
from hypothesis import strategies as st

from ledger.run.values import Policy
from ledger.run.work import planned_skips, retry_at


@pytest.mark.parametrize(("failures", "longest_s"), [(1, 10), (2, 20), (3, 40), (7, 600), (8, 600), (1_000, 600)])
def test_retry_at_when_failures_add_up(failures: int, longest_s: int) -> None:
    """The delay doubles with each failure up to its most, and its later half is left to chance."""
    policy = Policy(retry_delay_s=10, retry_delay_max_s=600)

    moments = [retry_at(policy, failures=failures, now=NOON, fraction=fraction) for fraction in (0.0, 0.5, 1.0)]

    assert [NOON + timedelta(seconds=longest_s * part) for part in (0.5, 0.75, 1.0)] == moments


@given(st.integers(0, 10_000), st.integers(0, 100_000), st.floats(0, 1))
def test_retry_at_when_policies_differ(delay_s: int, delay_max_s: int, fraction: float) -> None:
    """A delay never shrinks with more failures nor passes its most; without one it is tried at once."""
    policy = Policy(retry_delay_s=delay_s, retry_delay_max_s=delay_max_s)

    moments = [retry_at(policy, failures=failures, now=NOON, fraction=fraction) for failures in range(1, 40)]

    if delay_s == 0:
        assert {None} == set(moments)
        return
    assert all(before <= after for before, after in pairwise(moments) if before is not None and after is not None)
    assert all(moment is not None and moment <= NOON + timedelta(seconds=delay_max_s) for moment in moments)


def test_planned_skips_when_some_ran() -> None:
    """Those that have no result are skipped, in the order of the plan."""
    skips = planned_skips([["a", "b"], [], ["c"]], {"b"})

    assert ["a", "c"] == [skip["testId"] for skip in skips]
    assert {"skipped"} == {skip["status"] for skip in skips}
