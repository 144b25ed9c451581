"""Canonical bytes: of the envelope, of payloads, and what is hashed of them."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
import rfc8785
from builders import FULL, NOON, RUN, an_event_id, new_events
from hypothesis import given
from hypothesis import strategies as st

from ledger.envelope import Envelope, commitment, decode_envelope, encode_envelope, entry, leaf_hash
from ledger.run.codec import Context, encode_json, timestamp, to_new_events

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
moments = st.timedeltas(timedelta(0), timedelta(days=3_000_000)).map(lambda age: datetime(2, 1, 1, tzinfo=UTC) + age)
envelopes = st.builds(
    Envelope,
    actor=st.none() | texts,
    causation_id=st.none() | texts,
    commitment=st.binary(min_size=32, max_size=32).map(bytes.hex),
    correlation_id=st.none() | texts,
    event_id=texts,
    recorded_at=moments.map(timestamp),
    run_id=texts,
    schema_version=st.integers(min_value=1, max_value=2**31),
    traceparent=st.none() | texts,
    type=texts,
)
plane = st.text(st.characters(exclude_categories=["Cs"], max_codepoint=0xFFFF), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(min_value=-(2**53) + 1, max_value=2**53 - 1) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plane, inner, max_size=3),
    max_leaves=10,
)


def present(envelope: Envelope) -> dict[str, Any]:
    facts = {name: getattr(envelope, name) for name in Envelope.__struct_fields__}
    return {name: value for name, value in facts.items() if value is not None}


@given(envelopes)
def test_envelope_when_written(envelope: Envelope) -> None:
    """An envelope's bytes are those of RFC 8785, and give it back."""
    written = encode_envelope(envelope)

    assert rfc8785.dumps(present(envelope)) == written
    assert envelope == decode_envelope(written)


@given(envelopes, st.integers(min_value=1, max_value=2**53 - 1))
def test_entry_when_written(envelope: Envelope, version: int) -> None:
    """What the hash tree seals is canonical too: the envelope and its version."""
    sealed = entry(version, encode_envelope(envelope))

    assert rfc8785.dumps({"envelope": present(envelope), "version": version}) == sealed


@given(st.dictionaries(plane, values, max_size=4))
def test_payload_when_written(value: dict[str, Any]) -> None:
    """Keys of the basic plane, texts and integers are written as RFC 8785 says."""
    assert rfc8785.dumps(value) == encode_json(value)


def test_envelope_fields_when_one_is_added() -> None:
    """Fields stand in the order of their canonical bytes, which is what makes encoding canonical."""
    names = Envelope.__struct_fields__

    assert tuple(sorted(names)) == names


@given(moments, moments)
def test_timestamp_when_sorted_as_text(one: Any, other: Any) -> None:
    """Timestamps have one width, and sort as text as the moments do."""
    first, second = timestamp(one), timestamp(other)

    assert 27 == len(first) == len(second)
    assert (one < other) == (first < second)


def test_commitment_when_anything_differs() -> None:
    """A commitment is SHA-256 over salt and payload, and another salt or payload has another one."""
    salt, payload = bytes(32), b'{"type":"restored"}'

    made = commitment(salt, payload)

    assert hashlib.sha256(salt + payload).hexdigest() == made
    assert 3 == len({made, commitment(b"\x01" * 32, payload), commitment(salt, b"{}")})


def test_leaf_hash_when_compared_with_a_known_one() -> None:
    """A leaf is hashed as RFC 6962 says: the empty leaf has the published hash."""
    assert "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d" == leaf_hash(b"").hex()


def test_new_events_when_made() -> None:
    """Everything but the payload is in the envelope, whoever wrote it."""
    context = Context(actor="ci", correlation_id="c", causation_id="d", traceparent="00-a-b-01")

    [made] = new_events([FULL["started"]], context=context)

    assert decode_envelope(made.envelope) == Envelope(
        actor="ci",
        causation_id="d",
        commitment=commitment(made.salt, made.payload),
        correlation_id="c",
        event_id=an_event_id(1),
        recorded_at="2026-03-01T12:00:00.000000Z",
        run_id=RUN,
        schema_version=1,
        traceparent="00-a-b-01",
        type="started",
    )


def test_new_events_when_they_close_or_fence() -> None:
    """Terminal events close their stream, a shard's newer attempt and a purge raise a fence, nothing else does."""
    made = {tag: new_events([event])[0] for tag, event in FULL.items()}

    assert {"completed", "failed", "aborted"} == {tag for tag, event in made.items() if event.closes}
    assert {"shard_retried": ("shard 3", 2), "purged": ("purge", 1)} == {
        tag: (event.fence, event.fence_epoch) for tag, event in made.items() if event.fence is not None
    }
    assert {tag: event.type for tag, event in made.items()} == {tag: tag for tag in FULL}


def test_new_events_when_ids_are_missing() -> None:
    """Events, ids and salts go together one by one."""
    event = FULL["started"]

    with pytest.raises(ValueError, match="argument 2 is shorter"):
        to_new_events([event, event], run_id=RUN, recorded_at=NOON, event_ids=[an_event_id(1)], salts=[bytes(32)] * 2)


def test_payload_schema_when_read_by_others() -> None:
    """Times in payloads are RFC 3339 in UTC, so that readers in other languages take them."""
    payload = msgspec.json.decode(new_events([FULL["completed"]])[0].payload)

    assert "2026-03-01T13:00:00Z" == payload["finished_at"]
