"""Names that cross the wire: organizations, lists, origins. Parsed once, strictly, ASCII only.

A name is never a path, and no two names look alike: lower case, digits, dot and hyphen only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, NewType

from federation import limits
from federation.errors import LimitError, MalformedError

OrgName = NewType("OrgName", str)
"""An organization: a DNS name that it owns, such as `hotline.example`."""

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# The last label has a letter: otherwise it would be an IPv4 address (RFC 1123, section 2.1).
_ORG: Final = re.compile(rf"(?:{_LABEL}\.)+(?=[a-z0-9-]*[a-z]){_LABEL}")
_LIST: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62})")


def parse_org(text: str) -> OrgName:
    """Parse the name of an organization.

    Raises:
        LimitError: it is longer than a DNS name can be.
        MalformedError: it is not a DNS name of at least two labels in lower case.
    """
    if len(text) > limits.MAX_ORG_BYTES:
        raise LimitError(
            f"organization name: got {len(text)} bytes, at most {limits.MAX_ORG_BYTES}"
        )
    if _ORG.fullmatch(text) is None:
        raise MalformedError(
            f"organization name {text!r} is not a DNS name in lower case, such as hotline.example"
        )
    return OrgName(text)


def parse_list_name(text: str) -> str:
    """Parse the name of a list within its organization.

    Raises:
        MalformedError: it has other characters than a-z, 0-9, dot, underscore and hyphen, or starts
            with one of the last three, or is longer than 63.
    """
    if _LIST.fullmatch(text) is None:
        raise MalformedError(
            f"list name {text!r} must be 1 to {limits.MAX_LIST_BYTES} of a-z 0-9 . _ - "
            "and start with a letter or digit"
        )
    return text


@dataclass(frozen=True, slots=True, order=True)
class Origin:
    """The unique name of one list's log: `<org>/<list>`, the first line of its checkpoints."""

    org: OrgName
    name: str

    @classmethod
    def parse(cls, text: str) -> Origin:
        """Parse `<org>/<list>`.

        Raises:
            MalformedError: it is not two names with a slash between.
            LimitError: a name is too long.
        """
        org, slash, name = text.partition("/")
        if not slash:
            raise MalformedError(f"list {text!r} must be written as <org>/<list>")
        return cls(parse_org(org), parse_list_name(name))

    def __str__(self) -> str:
        return f"{self.org}/{self.name}"

    @property
    def hash(self) -> bytes:
        """SHA-256 of the origin's text, which headers carry instead of the text."""
        return sha256(str(self).encode()).digest()
