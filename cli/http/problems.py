"""What becomes of an error: the ONE table error -> problem+json (RFC 9457).

A problem's `code` is the name of the error's class in lower case, so it is as stable as the error; `type` is the same
as a URN. Errors of the ledger keep their message, which says what, why and what next; a defect tells nothing of itself.
"""

import re
from typing import Any, Final

import msgspec

from cli.http.messages import event_answer
from ledger.errors import LedgerError
from ledger.events import RecordedEvent

TYPE_PREFIX: Final = "urn:runfold:problem:"

STATUSES: Final = {
    "MalformedRequest": 400,
    "MalformedKey": 400,
    "TokenMissing": 401,
    "TokenRefused": 401,
    "ScopeMissing": 403,
    "ProjectRefused": 403,
    "OriginRefused": 403,
    "NotPermitted": 403,
    "PathNotFound": 404,
    "RunNotFound": 404,
    "ConsumerNotFound": 404,
    "MethodNotAllowed": 405,
    "BodyTimeout": 408,
    "IllegalTransition": 409,
    "RequestInFlight": 409,
    "RunIdTaken": 409,
    "Refused": 409,
    "EventIdReused": 409,
    "ConsumerDiffers": 409,
    "BatchLost": 409,
    "NotResumable": 409,
    "VersionConflict": 412,
    "BodyTooLarge": 413,
    "MediaTypeUnknown": 415,
    "InvalidInput": 422,
    "IdempotencyMismatch": 422,
    "RateExceeded": 429,
    "Overloaded": 503,
    "OutcomeUnknown": 503,
    "StoreUnavailable": 503,
    "SchemaMismatch": 503,
}
"""By the name of the error's class or of the nearest parent that is named; any other error is 500."""

_RETRY_AFTER_S: Final = {409: 1, 503: 1}
_RETRIED: Final = frozenset({"RequestInFlight", "Overloaded", "OutcomeUnknown", "StoreUnavailable", "StoreBusy"})

_FIELDS: Final = (
    "run_id",
    "field",
    "command",
    "key",
    "active_run_id",
    "expected_version",
    "version",
    "closed_version",
    "purged_version",
    "taken_version",
    "worker",
    "shard",
    "fence",
    "attempt",
    "newest_attempt",
    "token",
    "consumer",
    "partition",
    "event_id",
    "event_ids",
    "secret_kind",
    "scope",
    "project",
    "allowed",
    "bytes_max",
)
"""What errors know beside their message, where they have it. A lease's `token` is its number, never an access token."""


class HttpError(LedgerError):
    """A request that did not come as far as the ledger.

    Args:
        message: What, why and what next.
        headers: For the response.
        known: What else programs may want to know; each becomes a member of the problem.
    """

    def __init__(self, message: str, *, headers: dict[str, str] | None = None, **known: object) -> None:
        super().__init__(message)
        self.headers = headers or {}
        for name, value in known.items():
            setattr(self, name, value)


class MalformedRequest(HttpError):
    """The body is no JSON, or a header cannot be understood."""


class MalformedKey(HttpError):
    """The `Idempotency-Key` is none."""


class TokenMissing(HttpError):
    """Nobody says who asks."""


class TokenRefused(HttpError):
    """The token is none, or works no more; which of these is nobody's business who has no token."""


class ScopeMissing(HttpError):
    """The token does not allow this."""


class ProjectRefused(HttpError):
    """The token is not bound to this project. Said whether or not there is such a project."""


class OriginRefused(HttpError):
    """A web page asks a server that has no tokens."""


class PathNotFound(HttpError):
    """There is no such path."""


class MethodNotAllowed(HttpError):
    """The path is there, but not for this method."""


class BodyTimeout(HttpError):
    """The body did not come in time."""


class BodyTooLarge(HttpError):
    """The body is longer than is read."""


class MediaTypeUnknown(HttpError):
    """The body is not JSON."""


class RequestInFlight(HttpError):
    """A request with this idempotency key is still being answered."""


class RunIdTaken(HttpError):
    """The caller's own run id is in the ledger. Nothing is told of that run: it may be somebody else's."""


class RateExceeded(HttpError):
    """The token asked too often."""


class Overloaded(HttpError):
    """More requests or subscribers than one process takes."""


def status_of(error: BaseException) -> int:
    """Give the HTTP status of an error."""
    return next((STATUSES[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in STATUSES), 500)


def headers_of(error: BaseException) -> dict[str, str]:
    """Give the headers that an error's response carries."""
    headers = dict(error.headers) if isinstance(error, HttpError) else {}
    if not _RETRIED.isdisjoint(kind.__name__ for kind in type(error).__mro__):
        headers.setdefault("Retry-After", str(_RETRY_AFTER_S[status_of(error)]))
    return headers


def problem(error: BaseException, *, request_id: str, instance: str) -> bytes:
    """Write an error as a problem.

    Args:
        error: What happened.
        request_id: Ties the problem to the server's log.
        instance: The path that was asked for.
    """
    status = status_of(error)
    if status == 500:
        words, detail, known = "internal-error", _INTERNAL, {}
    else:
        words, detail, known = code_of(error), " ".join(str(error).split()), _known(error)
    return msgspec.json.encode(
        {
            "type": TYPE_PREFIX + words,
            "title": words.replace("-", " ").capitalize(),
            "status": status,
            "detail": detail,
            "instance": instance,
            "code": words,
            "request_id": request_id,
            **known,
        }
    )


_INTERNAL: Final = (
    "the server failed at this request, and nobody knows whether something was written."
    " Its log says more under the request's id."
)


def code_of(error: BaseException) -> str:
    """Give the stable code of an error: its class's name in lower case."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", type(error).__name__).lower()


def _known(error: BaseException) -> dict[str, Any]:
    known = {name: getattr(error, name) for name in _FIELDS if getattr(error, name, None) is not None}
    status = getattr(error, "status", None)
    if status is not None:
        known["run_status"] = str(status)
    winner = getattr(error, "winner", None)
    if isinstance(winner, RecordedEvent):
        known["winner"] = event_answer(winner)
    return known
