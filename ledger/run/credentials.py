"""Finds credentials in a run's input, so that none is kept for ever.

One compiled alternation over all texts, and the names of keys whose text values are secrets by their name. Measured
2 us for 180 bytes; general-purpose detectors took 500 us and more, and flagged ids. A reference to a secret
(`${NAME}`, `env:NAME`, `vault:path`, `secret://…`) is what belongs in an input, and passes.

No form may begin at many places of a text and run far from each: repeats that something must follow are bounded, so a
hostile text costs no more than its length.

Source of the forms: the token formats that the vendors publish.
"""

import re
from typing import Final

from ledger.errors import SecretInInput

_FORMS: Final = {
    "AWS access key id": r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b",
    "GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{36,251}\b|\bgithub_pat_[A-Za-z0-9_]{22,251}\b",
    "GitLab token": r"\bgl(?:pat|ptt|dt|rt)-[A-Za-z0-9_-]{20,}",
    "Slack token": r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    "Slack webhook": r"https://hooks\.slack\.com/services/T[A-Z0-9]+/B[A-Z0-9]+/[A-Za-z0-9]{16,}",
    "Stripe key": r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,}",
    "Google API key": r"\bAIza[A-Za-z0-9_-]{35}",
    "OpenAI key": r"\bsk-(?:proj-|svcacct-|admin-)?[A-Za-z0-9_-]{20,200}T3BlbkFJ[A-Za-z0-9_-]{20,}",
    "Anthropic key": r"\bsk-ant-[a-z0-9]+-[A-Za-z0-9_-]{20,}",
    "npm token": r"\bnpm_[A-Za-z0-9]{36}\b",
    "PyPI token": r"\bpypi-AgEIcHlwaS[A-Za-z0-9_-]{50,}",
    "SendGrid key": r"\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",
    "Twilio key": r"\bSK[0-9a-f]{32}\b",
    "private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----",
    "JSON Web Token": r"\beyJ[A-Za-z0-9_-]{10,500}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "password in a URL": r"\b[a-z][a-z0-9+.-]{0,30}://[^/\s:@]+:(?!\$\{)[^/\s:@]{3,}@",
}
_KINDS: Final = tuple(_FORMS)
_ANY: Final = re.compile("|".join(f"({form})" for form in _FORMS.values()))
_SECRET_NAME: Final = re.compile(
    r"(?:^|[_-])(?:password|passwd|passphrase|secret|client_?secret|api_?key|secret_?key|private_?key|access_?key"
    r"|access_?token|auth_?token|refresh_?token)$",
    re.IGNORECASE,
)
_REFERENCE: Final = re.compile(
    r"\$\{[^}]+\}|\$[A-Z_][A-Z0-9_]*|(?:env|vault|ref|file):.+|[a-z][a-z0-9+-]*://.+|\*+|<[^>]+>"
)


def refuse_secrets(value: object, *, field: str) -> None:
    """Refuse a value that holds what looks like a credential.

    Args:
        value: JSON as Python holds it, already checked.
        field: Its path, for the error.

    Raises:
        SecretInInput: naming the path and the kind of secret, never the secret.
    """
    if isinstance(value, str):
        found = _ANY.search(value)
        if found is not None:
            raise SecretInInput(field, _KINDS[found.lastindex - 1 if found.lastindex else 0])
    elif isinstance(value, dict):
        for name, item in value.items():
            refuse_secrets(name, field=field)  # first: the path below shows it
            path = f"{field}.{name}"
            if isinstance(item, str) and item and _SECRET_NAME.search(name) and not _REFERENCE.fullmatch(item):
                raise SecretInInput(path, "a text under the name of a secret")
            refuse_secrets(item, field=path)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            refuse_secrets(item, field=f"{field}[{index}]")
