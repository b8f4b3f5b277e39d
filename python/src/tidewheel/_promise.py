"""Tokens of promises: who has one may complete this promise of this run, and nothing else.

The server gives a program what the tokens of its run begin with, and a key; it makes the same token from the same place when one
comes back, so that nothing is stored of them.

>>> given = bytes([1]) + bytes(20) + bytes(32)
>>> text = token(given, "/promise:answer#0")
>>> head, key = read(text)
>>> head == given[:21], key
(True, '/promise:answer#0')
>>> read(text[:-1] + "u")
Traceback (most recent call last):
ValueError: this is no token of a promise: it begins with 'twp_' and has letters and digits behind it
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Tuple, Union

#: What the texts begin with; no promise has a name that does.
PREFIX = "twp_"
#: Bytes of the key that the server gives, behind what tokens begin with.
KEY_BYTES = 32
#: Bytes of what tokens begin with: version, tenant, run.
HEAD_BYTES = 21
#: Bytes of the proof in a token.
MAC_BYTES = 16

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def token(given: bytes, key: str) -> str:
    """The token of the promise with this key."""
    from hmac import digest

    head, secret = given[:-KEY_BYTES], given[-KEY_BYTES:]
    name = key.encode()
    whole = head + digest(secret, head + name, "sha256")[:MAC_BYTES] + name
    digits = -(-len(whole) * 8 // 5)
    number = int.from_bytes(whole, "big") << digits * 5 - len(whole) * 8
    return PREFIX + "".join([_ALPHABET[number >> 5 * i & 31] for i in range(digits - 1, -1, -1)])


def read(text: str) -> "Tuple[bytes, str]":
    """What a token begins with, and the key of its promise. Whether it is true, the server knows. Raises `ValueError`."""
    digits = text[len(PREFIX):]
    size = len(digits) * 5 // 8
    try:
        if not text.startswith(PREFIX) or size <= HEAD_BYTES + MAC_BYTES:
            raise ValueError(text)
        number = 0
        for digit in digits:
            number = number << 5 | _ALPHABET.index(digit)
        whole = (number >> len(digits) * 5 - size * 8).to_bytes(size, "big")
        return whole[:HEAD_BYTES], whole[HEAD_BYTES + MAC_BYTES:].decode()
    except ValueError:
        raise ValueError("this is no token of a promise: it begins with 'twp_' and has letters and digits behind it") from None


def check_one(value: "Any", error: "Any") -> None:
    """Raises `ValueError` for a completion with both, a value and an error."""
    if error is not None and value is not None:
        raise ValueError("a promise is completed with a value or with an error")


def completion(value: "Any", error: "Union[str, Dict[str, Any], None]") -> "Dict[str, Any]":
    """The body that completes a promise with a value or with an error."""
    from .encode import to_json

    check_one(value, error)
    return {"value": to_json(value, "value")} if error is None else {"error": error}


def run_of(head: bytes) -> str:
    """The id of the run that a token is of."""
    number = int.from_bytes(head[5:], "big")
    return "run_" + "".join([_ALPHABET[number >> 5 * i & 31] for i in range(25, -1, -1)])
