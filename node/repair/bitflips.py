"""Finds a single flipped bit by trying each bit.

The caller provides a check that only the right bytes pass, such as a signature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_LONGEST: Final = 4_096
"""The most bytes in which a flipped bit is searched: each bit may need the check of a signature."""


def correct_bit(data: bytes, holds: Callable[[bytes], bool]) -> bytes | None:
    """Return the bytes for which `holds` is true: as they are, or with one bit flipped, or None."""
    if holds(data):
        return data
    if len(data) > _LONGEST:
        return None
    for at in range(len(data)):
        for bit in range(8):
            tried = bytearray(data)
            tried[at] ^= 1 << bit
            if holds(bytes(tried)):
                return bytes(tried)
    return None


def correct_bit_of_text(text: str, holds: Callable[[str], bool]) -> str | None:
    """Return the ASCII text for which `holds` is true, as `correct_bit` does for bytes."""
    if holds(text):
        return text
    for at, letter in enumerate(text):
        # The replacement character stands for a byte that is no longer ASCII.
        codes = range(128) if letter == "\ufffd" else (ord(letter) ^ 1 << bit for bit in range(7))
        for code in codes:
            tried = f"{text[:at]}{chr(code)}{text[at + 1 :]}"
            if holds(tried):
                return tried
    return None
