"""Secrets are caught in every form that is known, and what only looks like one passes."""

from typing import Any

import pytest

from ledger.errors import SecretInInput
from ledger.limits import INPUT_BYTES_MAX
from ledger.run.credentials import _FORMS, refuse_secrets

A36 = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
SECRETS = {  # put together here, so that no scanner takes this file for a leak
    "AWS access key id": "AKIA" + "IOSFODNN7EXAMPLE",
    "GitHub token": "ghp_" + A36,
    "GitLab token": "glpat-" + A36[:20],
    "Slack token": "xoxb-" + "123456789012-abcdefghijkl",
    "Slack webhook": "https://hooks.slack.com/services/" + "T000ABC/B000ABC/" + A36[:24],
    "Stripe key": "sk_live_" + A36[:24],
    "Google API key": "AIza" + A36[:35],
    "OpenAI key": "sk-proj-" + A36 + "T3BlbkFJ" + A36,
    "Anthropic key": "sk-ant-" + "api03-" + A36,
    "npm token": "npm_" + A36,
    "PyPI token": "pypi-AgEIcHlwaS" + A36 + A36,
    "SendGrid key": "SG." + A36[:22] + "." + (A36 + A36)[:43],
    "Twilio key": "SK" + "0123456789abcdef" * 2,
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "JSON Web Token": "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0." + A36,
    "password in a URL": "postgresql://app:" + "hunter22@db.example/app",
}
OTHER_FORMS = {
    "AWS access key id": "ASIA" + "IOSFODNN7EXAMPLE",
    "GitHub token": "github_pat_" + A36,
    "Stripe key": "rk_test_" + A36[:24],
    "private key": "-----BEGIN PGP " + "PRIVATE KEY BLOCK-----",
    "password in a URL": "https://user:" + "p4ssw0rd@example.org/",
}


def secret_kind(value: Any) -> str | None:
    try:
        refuse_secrets(value, field="input")
    except SecretInInput as refusal:
        return refusal.secret_kind
    return None


def test_forms_when_one_is_added() -> None:
    """Every form has an example."""
    assert set(_FORMS) == set(SECRETS)


@pytest.mark.parametrize(("kind", "secret"), [*SECRETS.items(), *OTHER_FORMS.items()])
def test_secret_when_it_stands_alone(kind: str, secret: str) -> None:
    """A secret is named by its kind."""
    assert kind == secret_kind(secret)


@pytest.mark.parametrize(("kind", "secret"), SECRETS.items())
def test_secret_when_it_stands_inside_a_text(kind: str, secret: str) -> None:
    """A secret is found in the middle of a command or a message."""
    assert kind == secret_kind({"command": f"run --with '{secret}' now"})


@pytest.mark.parametrize("secret", SECRETS.values())
def test_secret_when_refused(secret: str) -> None:
    """The error says where the secret stands and never shows it."""
    with pytest.raises(SecretInInput) as refusal:
        refuse_secrets({"steps": [{"env": ["a", secret]}]}, field="input")

    assert "input.steps[0].env[1]" == refusal.value.field
    assert secret not in str(refusal.value)
    assert secret not in repr(refusal.value)


def test_secret_when_it_is_a_key() -> None:
    """A secret is found in the name of a field too, and is not shown in the path."""
    secret = SECRETS["GitHub token"]

    with pytest.raises(SecretInInput) as refusal:
        refuse_secrets({"tokens": {secret: True}}, field="input")

    assert "input.tokens" == refusal.value.field


@pytest.mark.parametrize("value", [{"password": "hunter22"}, "hunter22", [SECRETS["npm token"]]])
def test_secret_when_it_stands_below_a_key_that_is_one(value: Any) -> None:
    """The path to a secret never shows another one."""
    key = SECRETS["GitLab token"] + "_password"

    with pytest.raises(SecretInInput) as refusal:
        refuse_secrets({key: value}, field="input")

    assert SECRETS["GitLab token"] not in str(refusal.value)


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "Password",
        "db_password",
        "DB-PASSWD",
        "passphrase",
        "client_secret",
        "api_key",
        "apikey",
        "secret_key",
        "private_key",
        "access_token",
        "auth_token",
        "refresh_token",
    ],
)
def test_text_when_its_name_is_that_of_a_secret(name: str) -> None:
    """What stands under the name of a secret is one."""
    assert "a text under the name of a secret" == secret_kind({"env": {name: "hunter22"}})


@pytest.mark.parametrize(
    "reference",
    [
        "${DB_PASSWORD}",
        "$DB_PASSWORD",
        "env:DB_PASSWORD",
        "vault:secret/data/db#password",
        "ref:db",
        "file:/run/secrets/db",
        "secret://db/password",
        "aws-sm://prod/db",
        "********",
        "<redacted>",
        "",
    ],
)
def test_text_when_it_is_a_reference(reference: str) -> None:
    """A reference to a secret is what belongs in an input."""
    assert None is secret_kind({"password": reference, "api_key": reference})


@pytest.mark.parametrize(
    "value",
    [
        "0192f3a0-0000-7000-8000-000000000001",
        "3f786850e387550fdab836ed7e6dc881de23001b",
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "https://example.org:8443/path?user=a@b",
        "https://user@example.org/repo.git",
        "postgresql://app:${DB_PASSWORD}@db.example/app",
        "git@github.com:owner/repo.git",
        "sk-learn and sk-image are packages",
        "SKU 12345678901234567890123456789012",
        "tests/test_password.py::test_api_key",
        "eyJ is how a token begins",
        "-----BEGIN CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----",
        "AKIA is a prefix",
        "xoxo, the team",
        {"secretary": "Ann", "monkey": "George", "tokens": 12, "key": "branch", "api_key_count": "3"},
        {"password": None, "secret": True, "api_key": 7},
        [1, 2.5, None, False],
    ],
)
def test_value_when_it_is_no_secret(value: Any) -> None:
    """Ids, hashes, addresses and words are no secrets."""
    assert None is secret_kind(value)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "part", ["a", "sk-", "eyJ-", "eyJaaaaaaaaaa.eyJ/", "a.", "a://", "a://b:", "-----BEGIN A ", "gh", "SG."]
)
def test_text_when_it_is_made_to_be_slow(part: str) -> None:
    """The longest input, of what nearly matches again and again, takes no longer than reading it a few times."""
    hostile = part * (INPUT_BYTES_MAX // len(part))

    assert None is secret_kind({"text": hostile, hostile: "text"})
