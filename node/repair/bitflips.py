"""Finds which single bit of some bytes has flipped, by asking a check of the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_LONGEST_MENDED: Final = 4_096
"""Bytes in which a flipped bit is looked for: each is a signature that is tried."""


def mend(data: bytes, holds: Callable[[bytes], bool]) -> bytes | None:
    """Return bytes as they were before at most one bit of them flipped, or None."""
    if holds(data):
        return data
    if len(data) > _LONGEST_MENDED:
        return None
    for at in range(len(data)):
        for bit in range(8):
            tried = bytearray(data)
            tried[at] ^= 1 << bit
            if holds(bytes(tried)):
                return bytes(tried)
    return None


def mend_text(text: str, holds: Callable[[str], bool]) -> str | None:
    """Return an ASCII text as it was before at most one bit of it flipped, or None."""
    if holds(text):
        return text
    for at, letter in enumerate(text):
        # A byte that is no text any more can have been any.
        codes = range(128) if letter == "\ufffd" else (ord(letter) ^ 1 << bit for bit in range(7))
        for code in codes:
            tried = f"{text[:at]}{chr(code)}{text[at + 1 :]}"
            if holds(tried):
                return tried
    return None
