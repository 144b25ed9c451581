"""What a single value must be to be stored, and what becomes of output that is not."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import limits
from ledger.errors import InvalidInput
from ledger.run.codec import encode_json
from ledger.run.values import check_json, check_results, check_traceparent, clean, cut

any_text = st.text(max_size=12)  # NUL and lone surrogates among them
leaves = st.none() | st.booleans() | st.integers() | st.floats() | any_text | st.sampled_from([b"x", (1,), 1j])
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=8,
)


def is_storable(value: object) -> bool:
    """Say it once more, by other means: what Python's own JSON gives back, and no reader rounds or refuses."""
    if isinstance(value, dict):
        return all(is_storable(key) and is_storable(item) for key, item in value.items())
    if isinstance(value, list):
        return all(is_storable(item) for item in value)
    if isinstance(value, str):
        return not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**53)


@given(anything)
def test_value_when_checked(value: Any) -> None:
    """A value passes exactly when every reader gets back what was sent."""
    try:
        check_json(value, field="value")
        passed = True
    except InvalidInput:
        passed = False

    assert is_storable(value) == passed
    if passed:
        assert value == json.loads(encode_json(value))


@given(st.dictionaries(any_text, anything, max_size=4))
def test_result_when_checked(facts: dict[str, Any]) -> None:
    """A result is checked as every value is, however fast."""
    result = {**facts, "status": "passed"}
    try:
        check_results([result])
        passed = True
    except InvalidInput:
        passed = False

    assert is_storable(result) == passed


@given(st.text("abä😀\n", max_size=400), st.integers(min_value=60, max_value=300))
def test_text_when_cut(text: str, most: int) -> None:
    """A cut text keeps to its limit, begins and ends as the whole one, and says how much is missing."""
    short = cut(text, chars_max=most)

    if len(text) <= most:
        assert text == short
    else:
        head, _, rest = short.partition("\n… ")
        note, _, tail = rest.partition(" …\n")
        assert most == len(short)
        assert text.startswith(head)
        assert text.endswith(tail)
        assert f"{len(text) - most:,} characters cut" == note


@given(any_text)
def test_text_when_cleaned(text: str) -> None:
    """A cleaned text can be stored, has as many characters, and is left alone the second time."""
    cleaned = clean(text)

    check_json(cleaned, field="line")
    assert len(text) == len(cleaned)
    assert cleaned == clean(cleaned)
    assert (text == cleaned) == is_storable(text)


@pytest.mark.parametrize(
    "value",
    [
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
    ],
)
def test_traceparent_when_valid(value: str) -> None:
    """A W3C trace context is kept as it is."""
    assert value == check_traceparent(value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        7,
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
    ],
)
def test_traceparent_when_invalid(value: Any) -> None:
    """Anything else is no trace context, and no error: the standard says to go on without."""
    assert check_traceparent(value) is None


@pytest.mark.parametrize("path", ["input", "input.steps[3].name"])
def test_error_when_a_value_is_refused(path: str) -> None:
    """The error has the path and the reason as fields, and says all of it in words."""
    with pytest.raises(InvalidInput) as refusal:
        check_json(math.nan, field=path)

    assert (path, "is nan, which JSON does not have; send null or text.") == (refusal.value.field, refusal.value.why)
    assert f"{path}: {refusal.value.why} Nothing was written" in str(refusal.value)


def test_path_when_the_value_is_deep() -> None:
    """The path leads to the first value that cannot be stored."""
    value = {"steps": [{"name": "a"}, {"name": "b", "args": [1, [2, {"x": limits.INTEGER_MAX + 1}]]}]}

    with pytest.raises(InvalidInput) as refusal:
        check_json(value, field="input")

    assert "input.steps[1].args[1][1].x" == refusal.value.field
