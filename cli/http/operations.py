"""What an operation of the API is: where it is asked for, by whom, and what answers it.

The table of them all stands in `cli.http.routes`; the app, the OpenAPI document and the tests are made from it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from cli.http.auth import Identity
from cli.http.messages import Answer, Message, Nothing
from cli.http.tokens import Scope
from ledger.api import Ledger
from ledger.run.leases import Lease
from projections.reader import Runs

Query = TypeVar("Query", bound=Message)
Body = TypeVar("Body", bound=Message)


@dataclass(frozen=True, slots=True)
class Call(Generic[Query, Body]):
    """One request as its handler sees it: checked, and allowed.

    Attributes:
        log: Writes in the caller's name; only if the run is at a version, and under a lease, where they said so.
        path: What stands in the path's braces.
        idempotency_key: From the header.
        expected_version: From `If-Match`.
        lease: From `Runfold-Lease`.
    """

    log: Ledger
    runs: Runs
    identity: Identity
    path: Mapping[str, str]
    query: Query
    body: Body
    idempotency_key: str | None = None
    expected_version: int | None = None
    lease: Lease | None = None
    if_none_match: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What a handler gives: a document that becomes JSON, or text.

    Attributes:
        version: Of the run's stream; becomes the ETag.
    """

    document: object
    status: int = 200
    version: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Call[Any, Any]], Reply]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation.

    Attributes:
        name: Its id in OpenAPI.
        scope: What a token must allow; None is open to everybody.
        answer: The shape of what it answers; None where that is no JSON.
        takes_key: Whether it takes an `Idempotency-Key`.
        takes_version: Whether it takes `If-Match`.
        takes_lease: Whether it takes `Runfold-Lease`; `needs_lease`: whether it cannot do without.
        needs_every_project: Whether it is about more than one project can tell apart.
        is_stream: Whether it answers with server-sent events, which `cli.http.stream` does.
    """

    name: str
    method: str
    path: str
    summary: str
    scope: Scope | None
    run: Handler
    query: type[Message] = Nothing
    body: type[Message] | None = None
    answer: Answer | None = None
    statuses: tuple[int, ...] = (200,)
    takes_key: bool = False
    takes_version: bool = False
    takes_lease: bool = False
    needs_lease: bool = False
    needs_every_project: bool = False
    is_stream: bool = False
    media_type: str = "application/json"

    @property
    def is_write(self) -> bool:
        return self.method != "GET"
