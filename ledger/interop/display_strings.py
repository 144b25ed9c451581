"""Any text in a header, which itself holds ASCII only: the Display Strings of structured fields.

Source: RFC 9651, sections 3.3.8, 4.1.11 and 4.2.10.
"""

import re
from typing import Final
from urllib.parse import unquote_to_bytes

PREFIX: Final = '%"'
_WRITTEN: Final = re.compile(r'%"((?:[\x20-\x21\x23-\x24\x26-\x7e]|%[0-9a-f]{2})*)"', re.ASCII)
_AS_IT_IS: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?", re.ASCII)


def is_plain(text: str) -> bool:
    """Tell whether a header carries a text as it is, and nobody takes it for a Display String."""
    return _AS_IT_IS.fullmatch(text) is not None and not text.startswith(PREFIX)


def write(text: str) -> str:
    """Write a text that can be encoded as UTF-8."""
    octets = (chr(octet) if 0x20 <= octet < 0x7F and octet not in b'%"' else f"%{octet:02x}" for octet in text.encode())
    return f'{PREFIX}{"".join(octets)}"'


def read(written: str) -> str | None:
    """Read what `write` wrote; None when it is no Display String."""
    found = _WRITTEN.fullmatch(written)
    if found is None:
        return None
    try:
        return unquote_to_bytes(found[1]).decode()
    except UnicodeDecodeError:
        return None
