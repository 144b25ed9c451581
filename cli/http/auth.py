"""Who asks, and what they may: nothing, unless a token says so.

A token is looked up at most once a second, so a revoked one works for a second more at most. What is wrong with a
token is not told: a missing, expired, revoked and made-up one differ in nothing that a stranger could use.
"""

from collections import OrderedDict
from datetime import datetime
from typing import Final

import msgspec

from cli.http import limits
from cli.http.problems import ProjectRefused, RateExceeded, ScopeMissing, TokenMissing, TokenRefused
from cli.http.tokens import Scope, TokenTable, hash_of, is_wellformed
from ledger.clock import Clock, monotonic, utc_now
from ledger.errors import ConsumerNotFound, InvalidInput, RunNotFound

_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="runfold"'}
_REFUSED: Final = {"WWW-Authenticate": 'Bearer realm="runfold", error="invalid_token"'}


class Identity(msgspec.Struct, frozen=True):
    """Who asks.

    Attributes:
        token_id: Of their token; None where the server asks for none.
        name: Their name; empty where the server asks for none.
        projects: What they may see and change; None is everything.
    """

    token_id: str | None
    name: str
    scopes: frozenset[Scope]
    projects: frozenset[str] | None
    expires_at: datetime | None = None

    def require(self, scope: Scope) -> None:
        """Check that they may do this kind of thing.

        Raises:
            ScopeMissing: when their token does not say so.
        """
        if scope not in self.scopes and Scope.ADMIN not in self.scopes:
            raise ScopeMissing(
                f"this token lacks the scope {scope}. Ask whoever runs the server for one that has it.",
                headers={"WWW-Authenticate": f'Bearer realm="runfold", error="insufficient_scope", scope="{scope}"'},
                scope=scope.value,
            )

    def require_project(self, project: str | None) -> None:
        """Check that they may use this project; the answer is the same whether or not it exists.

        Raises:
            ProjectRefused: when their token is bound to others.
        """
        if not self.may_use(project):
            raise ProjectRefused(
                "this token is bound to other projects. Name one of its own, or ask for a token of this one.",
                project=project,
            )

    def require_every_project(self) -> None:
        """Check that they may use what cannot be told apart by project.

        Raises:
            ProjectRefused: when their token is bound to some projects.
        """
        if self.projects is not None:
            raise ProjectRefused("this needs a token of every project, and this one is bound to some.")

    def require_run(self, run_id: str, project: str | None) -> None:
        """Check that they may know of a run.

        Raises:
            RunNotFound: when they may not, exactly as if it did not exist.
        """
        if not self.may_use(project):
            raise RunNotFound(run_id)

    def require_consumer(self, name: str, projects: frozenset[str] | None) -> None:
        """Check that they may know of everything that a consumer gives.

        Raises:
            ConsumerNotFound: when they may not, exactly as if it did not exist.
        """
        if self.projects is not None and (projects is None or not projects <= self.projects):
            raise ConsumerNotFound(name)

    def may_use(self, project: str | None) -> bool:
        return self.projects is None or (project is not None and project in self.projects)

    def chosen_project(self, project: str | None) -> str | None:
        """Give the project that a question about many runs is about.

        Raises:
            ProjectRefused: when it is none of theirs.
            InvalidInput: when they have several and name none.
        """
        if project is not None or self.projects is None:
            self.require_project(project)
            return project
        if len(self.projects) > 1:
            raise InvalidInput(
                "project", f"is missing, and this token has several: {', '.join(sorted(self.projects))}."
            )
        return next(iter(self.projects))


EVERYBODY: Final = Identity(None, "", frozenset(Scope), None)
"""Whoever asks a server on loopback that keeps a newcomer's own ledger."""


class Authenticator:
    """Turns the `Authorization` header into an identity. Safe to use from any thread.

    Args:
        tokens: The tokens; None where nobody needs one.
        clock: Tells the time, for tests.
    """

    def __init__(self, tokens: TokenTable | None, *, clock: Clock = utc_now) -> None:
        self._tokens = tokens
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, Identity | None]] = OrderedDict()

    @property
    def asks_for_tokens(self) -> bool:
        return self._tokens is not None

    def known(self, authorization: str | None) -> Identity | None:
        """Give the identity if it need not be looked up; None if it must be.

        Raises:
            TokenMissing, TokenRefused: when it can be told at once.
        """
        if self._tokens is None:
            return EVERYBODY
        found = self._known.get(hash_of(_bearer(authorization)))
        if found is None or found[0] < monotonic():
            return None
        return self._still(found[1])

    def identify(self, authorization: str | None) -> Identity:
        """Look the token up.

        Raises:
            TokenMissing: when there is none.
            TokenRefused: when it is none that works.
        """
        if self._tokens is None:
            return EVERYBODY
        secret_hash = hash_of(_bearer(authorization))
        token = self._tokens.find(secret_hash)
        identity = None
        if token is not None and token.is_active(self._clock()):
            projects = None if token.projects is None else frozenset(token.projects)
            identity = Identity(token.token_id, token.name, frozenset(token.scopes), projects, token.expires_at)
        self._known[secret_hash] = monotonic() + limits.IDENTITY_FRESH_S, identity
        while len(self._known) > limits.IDENTITIES_MAX:
            self._known.popitem(last=False)
        return self._still(identity)

    def _still(self, identity: Identity | None) -> Identity:
        if identity is None or (identity.expires_at is not None and self._clock() >= identity.expires_at):
            raise TokenRefused(_REFUSAL, headers=_REFUSED)
        return identity


_REFUSAL: Final = (
    "this token does not work: it is mistyped, expired, revoked or of another ledger."
    " `runfold token list` tells whoever runs the server."
)


def _bearer(authorization: str | None) -> str:
    if not authorization:
        raise TokenMissing(
            "this server needs a token: send `Authorization: Bearer rf_…`. `runfold token create` makes one.",
            headers=_CHALLENGE,
        )
    scheme, _, secret = authorization.partition(" ")
    if scheme.lower() != "bearer" or not is_wellformed(secret.strip()):
        raise TokenRefused(_REFUSAL, headers=_REFUSED)
    return secret.strip()


class RateLimit:
    """So many requests a second for each token, saved up for two. To be used from one thread.

    Args:
        per_s: Requests a second; 0 is as many as they like.
    """

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._burst = max(1.0, per_s * limits.RATE_BURST_S)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, identity: Identity) -> None:
        """Count one request.

        Raises:
            RateExceeded: when there were too many.
        """
        if not self._per_s or identity.token_id is None:
            return
        now = monotonic()
        saved, at = self._buckets.pop(identity.token_id, (self._burst, now))
        saved = min(self._burst, saved + (now - at) * self._per_s)
        self._buckets[identity.token_id] = max(0.0, saved - 1) if saved >= 1 else saved, now
        while len(self._buckets) > limits.BUCKETS_MAX:
            self._buckets.popitem(last=False)
        if saved < 1:
            wait_s = max(1, round((1 - saved) / self._per_s + 0.5))
            raise RateExceeded(
                f"this token may ask {self._per_s:g} times a second. Try again in {wait_s} s.",
                headers={"Retry-After": str(wait_s)},
            )
