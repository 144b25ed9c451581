"""What a token looks like and allows."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.http.auth import Identity, RateLimit
from cli.http.problems import ProjectRefused, RateExceeded, ScopeMissing
from cli.http.tokens import Scope, hash_of, is_wellformed, new_token, successor
from ledger.errors import InvalidInput, RunNotFound

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def an_identity(*scopes: Scope, projects: set[str] | None = None) -> Identity:
    return Identity("tok_1", "ada", frozenset(scopes), None if projects is None else frozenset(projects))


def test_token_when_made() -> None:
    """A token has its prefix and checksum, no two are alike, and what is stored does not hold it."""
    made = [new_token(name="ci", scopes=["runs:read"], projects=None, expires_at=None, now=NOON) for _ in range(50)]

    secrets = [secret for _, secret in made]
    assert all(secret.startswith("rf_") and is_wellformed(secret) for secret in secrets)
    assert 50 == len(set(secrets)) == len({hash_of(secret) for secret in secrets})
    assert all(secret not in repr(token) for token, secret in made)


@given(at=st.integers(3, 51), character=st.characters(codec="ascii"))
def test_token_when_one_character_is_wrong(at: int, character: str) -> None:
    """A typo is told from a token without asking anybody."""
    _, secret = new_token(name="ci", scopes=["admin"], projects=None, expires_at=None, now=NOON)
    typo = secret[:at] + character + secret[at + 1 :]

    assert (typo == secret) == is_wellformed(typo)


@pytest.mark.parametrize(
    ("field", "facts"),
    [
        ("scopes", {"scopes": []}),
        ("scopes", {"scopes": ["runs:delete"]}),
        ("projects", {"projects": []}),
        ("name", {"name": ""}),
        ("expires_at", {"expires_at": NOON}),
    ],
)
def test_token_when_it_makes_no_sense(field: str, facts: dict[str, object]) -> None:
    """A token without a scope, a project, a name or a future is refused."""
    asked: dict[str, object] = {"name": "ci", "scopes": ["admin"], "projects": None, "expires_at": None, **facts}

    with pytest.raises(InvalidInput) as refusal:
        new_token(**asked, now=NOON)  # type: ignore[arg-type]

    assert field == refusal.value.field


def test_token_when_time_passes() -> None:
    """A token works until it expires; its successor lasts as long as it was given."""
    token, _ = new_token(name="ci", scopes=["admin"], projects=["web"], expires_at=NOON + timedelta(days=9), now=NOON)
    later = NOON + timedelta(days=5)
    following, _ = successor(token, now=later)

    assert token.is_active(later)
    assert not token.is_active(NOON + timedelta(days=9))
    assert (later + timedelta(days=9), ("web",), token.scopes) == (
        following.expires_at,
        following.projects,
        following.scopes,
    )


@pytest.mark.parametrize("held", Scope)
@pytest.mark.parametrize("needed", Scope)
def test_scope_when_needed(held: Scope, needed: Scope) -> None:
    """A scope allows itself and nothing else; admin allows everything."""
    identity = an_identity(held)

    if held in (needed, Scope.ADMIN):
        identity.require(needed)
    else:
        with pytest.raises(ScopeMissing):
            identity.require(needed)


@pytest.mark.parametrize(
    ("projects", "asked", "chosen"),
    [(None, None, None), (None, "web", "web"), ({"web"}, None, "web"), ({"web"}, "web", "web")],
)
def test_project_when_chosen(projects: set[str] | None, asked: str | None, chosen: str | None) -> None:
    """A question about many runs is about the project that is named, or the only one there is."""
    assert chosen == an_identity(projects=projects).chosen_project(asked)


def test_project_when_not_theirs() -> None:
    """Another project is refused, no project is not theirs either, and several must be told apart."""
    one, two = an_identity(projects={"web"}), an_identity(projects={"web", "api"})

    with pytest.raises(ProjectRefused):
        one.chosen_project("api")
    with pytest.raises(ProjectRefused):
        one.require_project(None)
    with pytest.raises(RunNotFound):
        one.require_run("some-run", None)
    with pytest.raises(InvalidInput):
        two.chosen_project(None)


def test_rate_when_exceeded() -> None:
    """What was saved up can be used at once, then the next request is refused with when to come back."""
    rate, identity = RateLimit(0.5), an_identity()

    rate.take(identity)
    with pytest.raises(RateExceeded) as refusal:
        rate.take(identity)

    assert "2" == refusal.value.headers["Retry-After"]


def test_rate_when_there_is_none() -> None:
    """Without a limit, or without a token, nobody is held up."""
    for rate, identity in ((RateLimit(0), an_identity()), (RateLimit(1), Identity(None, "", frozenset(Scope), None))):
        for _ in range(100):
            rate.take(identity)
