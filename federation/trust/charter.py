"""List charters: what a list is and whom it may reach, signed by its publisher.

The highest version that a node has seen is in force; a lower one is a rollback. A relay serves a
list only to those whom its charter allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from federation import limits
from federation.dsse import Envelope
from federation.errors import LimitError, MalformedError, Reason, SequenceError
from federation.names import OrgName, Origin, parse_org
from federation.trust.orgroot import OrgRoot, Role

MEDIA_TYPE: Final = "application/vnd.hashfed.list-charter.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Audience:
    """The organizations that may have a list. Empty means nobody.

    Attributes:
        all_peers: every peer of the owner and of its relays.
        orgs: these organizations, sorted; empty when `all_peers`.
    """

    all_peers: bool
    orgs: tuple[OrgName, ...]

    def allows(self, org: str) -> bool:
        """Return whether an organization may have the list."""
        return self.all_peers or org in self.orgs


@dataclass(frozen=True, slots=True, kw_only=True)
class Charter:
    """What a list is and whom it may reach.

    Attributes:
        origin: the list.
        version: 1 for the first.
        created_ms: when it was made, in milliseconds since 1970-01-01T00:00:00Z.
        audience: whom it may reach.
    """

    origin: Origin
    version: int
    created_ms: int
    audience: Audience

    def allows(self, org: str) -> bool:
        """Return whether an organization may have the list: the owner and the audience may."""
        return org == self.origin.org or self.audience.allows(org)

    def check(self) -> None:
        """Raise an error unless the charter is well formed.

        Raises:
            MalformedError: a version or a time is out of range, or the audience is unsorted or has
            both
                forms.
            LimitError: there are too many organizations.
        """
        orgs = self.audience.orgs
        if not 1 <= self.version <= limits.MAX_VERSION:
            raise MalformedError(f"charter of {self.origin}: got version {self.version}")
        if self.created_ms > limits.MAX_TIME_MS:
            raise MalformedError(f"charter of {self.origin}: made at {self.created_ms}")
        if len(orgs) > limits.MAX_AUDIENCE_ORGS:
            raise LimitError(f"charter of {self.origin}: {len(orgs)} organizations")
        for org in orgs:
            parse_org(org)
        if any(a >= b for a, b in pairwise(orgs)):
            raise MalformedError(f"charter of {self.origin}: audience not sorted and distinct")
        if self.audience.all_peers and orgs:
            raise MalformedError(
                f"charter of {self.origin}: the audience is all peers and also some by name"
            )


def verify_charter(
    charter: Charter, envelope: Envelope, *, origin: Origin, root: OrgRoot, newest: int
) -> Charter:
    """Check a charter that arrived and return it.

    Args:
        charter: the content of the envelope's payload (`federation.wire.decode_charter`).
        envelope: the signed bytes.
        origin: the list to which it must belong.
        root: the owner's org root in force.
        newest: the version that this node holds; 0 for none.

    Raises:
        MalformedError, LimitError: as for `Charter.check`; FORMAT_UNSUPPORTED, it is another type.
        SignatureError: it is not signed by the owner's publisher keys.
        SequenceError: ORIGIN_MISMATCH, it belongs to another list; CHARTER_ROLLBACK, it is older
            than `newest`.
    """
    charter.check()
    keys = root.roles[Role.PUBLISHER]
    envelope.verify(keys.by_id, keys.threshold, payload_type=MEDIA_TYPE)
    if charter.origin != origin:
        raise SequenceError(
            f"charter: it belongs to {charter.origin}, not to {origin}",
            reason=Reason.ORIGIN_MISMATCH,
        )
    if charter.version < newest:
        raise SequenceError(
            f"charter of {origin}: got version {charter.version}, have {newest}",
            reason=Reason.CHARTER_ROLLBACK,
        )
    return charter
