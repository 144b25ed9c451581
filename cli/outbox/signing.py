"""Signatures of callbacks, as Standard Webhooks has them: `v1`, HMAC-SHA256 over id, time and body.

Source: standardwebhooks.com, specification 1.0.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import Final

SECRET_PREFIX: Final = "whsec_"
TOLERANCE_S: Final = 300
"""How far a call's time may be from the receiver's: for so long, a call that was overheard could be repeated."""


def new_secret() -> str:
    """Make a secret that sender and receiver share."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def signed_headers(secret: str, *, message_id: str, at: int, body: bytes) -> dict[str, str]:
    """Give the headers that let a receiver know sender and content.

    Args:
        secret: Shared with the receiver.
        message_id: The same for every attempt, so that a receiver knows one that it has had.
        at: When this attempt is made, in seconds since 1970.
        body: Of the call, byte for byte.
    """
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{_signature(secret, message_id, str(at), body)}",
    }


def is_authentic(secret: str, *, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """Tell whether a call comes from whoever has the secret, and lately; for receivers.

    Args:
        secret: Shared with the sender.
        headers: Of the call, their names in lower case.
        body: As it came, before anything parsed it.
        now: Seconds since 1970.
    """
    message_id, at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not at.isascii() or not at.isdigit() or len(at) > 15 or abs(now - int(at)) > TOLERANCE_S:
        return False
    wanted = f"v1,{_signature(secret, message_id, at, body)}".encode()
    given = headers.get("webhook-signature", "").encode().split(b" ")
    return any(hmac.compare_digest(wanted, each) for each in given)


def _signature(secret: str, message_id: str, at: str, body: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    return base64.b64encode(hmac.digest(key, f"{message_id}.{at}.".encode() + body, hashlib.sha256)).decode()
