"""The envelope: the small canonical record of an event that outlives its payload.

What is stored of an event is its payload (the writer's canonical bytes), a random salt, and this envelope, which
holds everything else the writer knew and a salted commitment to the payload. Erasing payload and salt leaves the
envelope whole, so a log that was sealed before still verifies, and what is left of the payload cannot be guessed.

Version and position are not in the envelope: the database gives them, after the writer made its bytes. `entry` joins
the version to the envelope for the hash tree. The position stays out of it, so that one log has one root on every
database.

Source: RFC 6962 section 2.1 (leaf hash); RFC 8785 (canonical JSON), of which the envelope uses the part that needs
no number formatting: sorted ASCII keys, text and small integers.
"""

import hashlib

import msgspec

SALT_BYTES = 32


class Envelope(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, kw_only=True):
    """What an event carries beside its payload. Fields stand in the order of their canonical bytes.

    Attributes:
        actor: Who caused it, as the caller says; None when nobody said.
        causation_id: The event or message that led to it.
        commitment: SHA-256 of salt and payload, in hex.
        correlation_id: What ties the events of one request together.
        event_id: UUIDv7, made by the writer.
        recorded_at: When the writer recorded it: UTC, always with six decimals, so that text sorts as time.
        run_id: Whose stream it belongs to.
        schema_version: Of the payload, from 1.
        traceparent: W3C trace context, when there was one.
        type: The event's type.
    """

    actor: str | None = None
    causation_id: str | None = None
    commitment: str
    correlation_id: str | None = None
    event_id: str
    recorded_at: str
    run_id: str
    schema_version: int
    traceparent: str | None = None
    type: str


encode_envelope = msgspec.json.Encoder().encode
"""Canonical bytes of an envelope: its fields are declared in sorted order, so encoding is already canonical."""

decode_envelope = msgspec.json.Decoder(Envelope).decode


def commitment(salt: bytes, payload: bytes) -> str:
    """Commit to a payload without revealing it.

    Args:
        salt: `SALT_BYTES` random bytes, of this event alone.
        payload: The payload's canonical bytes.

    Returns:
        SHA-256 in hex.
    """
    return hashlib.sha256(salt + payload).hexdigest()


def entry(version: int, envelope: bytes) -> bytes:
    """Give the bytes that the hash tree seals: the envelope and the event's place in its stream."""
    return b'{"envelope":%b,"version":%d}' % (envelope, version)


def leaf_hash(entry_bytes: bytes) -> bytes:
    """Hash one entry as a leaf of the tree (RFC 6962, section 2.1)."""
    return hashlib.sha256(b"\x00" + entry_bytes).digest()
