"""Serialized forms: protobuf messages to values of this library and back.

This is the only module that uses generated messages. Signed bytes are kept as they are: nothing
here re-encodes what it decoded. Decoding is strict: unknown fields, which this version would never
have written, are refused, so a later format must say that it is one.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from federation import dsse, fields, limits
from federation.body import (
    SALT_SEED_BYTES,
    Body,
    Group,
    Shape,
    code_width,
    decode_codes,
    encode_codes,
)
from federation.entry import Annotation, Cause, OpKind
from federation.errors import LimitError, MalformedError
from federation.keys import PublicKey
from federation.names import OrgName, Origin
from federation.trust import charter, orgroot
from federation.v1 import delta_pb2, document_pb2


def _refuse_unknown(messages: Iterable[Message], what: str) -> None:
    if any(len(UnknownFieldSet(message)) for message in messages):
        raise MalformedError(f"{what} has fields that this version does not know")


# --- envelopes and documents ------------------------------------------------------------------


def encode_envelope(envelope: dsse.Envelope) -> bytes:
    """Encode a DSSE envelope."""
    return document_pb2.Envelope(
        payload_type=envelope.payload_type,
        payload=envelope.payload,
        signatures=[
            document_pb2.Signature(key_id=signature.key_id, signature=signature.signature)
            for signature in envelope.signatures
        ],
    ).SerializeToString()


def decode_envelope(data: bytes) -> dsse.Envelope:
    """Decode a DSSE envelope; verifies nothing.

    Only the encoding of `encode_envelope` is accepted. In another encoding of the same message, a
    node on the way could hide bytes that nobody signed.

    Raises:
        MalformedError: it is not an envelope, or has another encoding.
        LimitError: it is too large, or has too many signatures.
    """
    if len(data) > limits.MAX_DOCUMENT_BYTES:
        raise LimitError(f"envelope: got {len(data)} bytes, at most {limits.MAX_DOCUMENT_BYTES}")
    message = fields.parse(document_pb2.Envelope(), data, "envelope")
    if len(message.signatures) > limits.MAX_DOCUMENT_SIGNATURES:
        raise LimitError(f"envelope: got {len(message.signatures)} signatures")
    envelope = dsse.Envelope(
        message.payload_type,
        message.payload,
        tuple(dsse.Signature(item.key_id, item.signature) for item in message.signatures),
    )
    if encode_envelope(envelope) != data:
        raise MalformedError("envelope is not encoded as this version encodes it")
    return envelope


def encode_org_root(root: orgroot.OrgRoot) -> bytes:
    """Encode an org root: the payload that its root keys sign."""
    return document_pb2.OrgRoot(
        org=root.org,
        version=root.version,
        created_ms=root.created_ms,
        roles=[
            document_pb2.Role(
                kind=document_pb2.RoleKind.ValueType(role),
                public_keys=list(keys.public_keys),
                threshold=keys.threshold,
            )
            for role, keys in sorted(root.roles.items())
        ],
        tls_certificates=list(root.tls_certificates),
    ).SerializeToString()


def decode_org_root(payload: bytes) -> orgroot.OrgRoot:
    """Decode an org root; verifies nothing (`federation.trust.orgroot.pin` does).

    Raises:
        MalformedError: it is not an org root, or has a role that this version does not know.
    """
    message = fields.parse(document_pb2.OrgRoot(), payload, "org root")
    _refuse_unknown(chain([message], message.roles), "org root")
    roles: dict[orgroot.Role, orgroot.RoleKeys] = {}
    for role in message.roles:
        try:
            kind = orgroot.Role(role.kind)
        except ValueError as error:
            raise MalformedError(f"org root: unknown role {role.kind}") from error
        if kind in roles:
            raise MalformedError(f"org root: role {kind.name} twice")
        roles[kind] = orgroot.RoleKeys(
            public_keys=tuple(PublicKey(key) for key in role.public_keys),
            threshold=role.threshold,
        )
    return orgroot.OrgRoot(
        org=OrgName(message.org),
        version=message.version,
        created_ms=message.created_ms,
        roles=roles,
        tls_certificates=tuple(message.tls_certificates),
    )


def open_org_root(data: bytes) -> orgroot.PinnedRoot:
    """Decode and verify the envelope of an org root that its own root keys sign.

    Raises:
        PeerError: anything is wrong with it.
    """
    envelope = decode_envelope(data)
    return orgroot.pin(decode_org_root(envelope.payload), envelope)


def encode_charter(value: charter.Charter) -> bytes:
    """Encode a list charter: the payload that a publisher key signs."""
    return document_pb2.ListCharter(
        origin=str(value.origin),
        version=value.version,
        created_ms=value.created_ms,
        audience=document_pb2.Audience(
            all_peers=value.audience.all_peers, orgs=list(value.audience.orgs)
        ),
    ).SerializeToString()


def decode_charter(payload: bytes) -> charter.Charter:
    """Decode a list charter; verifies nothing (`federation.trust.charter.verify_charter` does).

    Raises:
        MalformedError: it is not a list charter.
    """
    message = fields.parse(document_pb2.ListCharter(), payload, "list charter")
    _refuse_unknown([message, message.audience], "list charter")
    return charter.Charter(
        origin=Origin.parse(message.origin),
        version=message.version,
        created_ms=message.created_ms,
        audience=charter.Audience(
            all_peers=message.audience.all_peers,
            orgs=tuple(OrgName(org) for org in message.audience.orgs),
        ),
    )


# --- delta bodies -----------------------------------------------------------------------------


def encode_body(body: Body) -> bytes:
    """Encode a delta body."""
    width = code_width(len(body.annotations))
    return delta_pb2.DeltaBody(
        salt_seed=body.salt_seed,
        annotations=[
            delta_pb2.Annotation(
                labels=annotation.labels,
                reason=annotation.reason,
                vocabulary=annotation.vocabulary,
                cause=delta_pb2.RetractionCause.ValueType(annotation.cause),
            )
            for annotation in body.annotations
        ],
        groups=[
            delta_pb2.OpGroup(
                kind=delta_pb2.OpKind.ValueType(group.shape.kind),
                named_by_fingerprint=group.shape.named,
                count=group.count,
                ids=group.ids,
                id_width=group.shape.id_width,
                columns=[
                    delta_pb2.Column(hash_type=name, width=digest_width, digests=digests)
                    for (name, digest_width), digests in zip(
                        group.shape.columns, group.columns, strict=True
                    )
                ],
                annotation_codes=encode_codes(group.codes, width),
            )
            for group in body.groups
        ],
    ).SerializeToString()


def decode_body(data: bytes) -> Body:
    """Decode a delta body. `Body.check` must still check the operations.

    Raises:
        MalformedError: it is not a body, or its columns do not fit their counts.
        LimitError: it has too many groups, annotations or columns.
    """
    if len(data) > limits.MAX_BODY_BYTES:
        raise LimitError(f"body: got {len(data)} bytes, at most {limits.MAX_BODY_BYTES}")
    message = fields.parse(delta_pb2.DeltaBody(), data, "body")
    if len(message.groups) > limits.MAX_BODY_GROUPS:
        raise LimitError(f"groups: got {len(message.groups)}, at most {limits.MAX_BODY_GROUPS}")
    if len(message.annotations) > limits.MAX_ANNOTATIONS:
        raise LimitError(f"annotations: got {len(message.annotations)}")
    if len(message.salt_seed) != SALT_SEED_BYTES:
        raise MalformedError(f"salt seed: got {len(message.salt_seed)} bytes")
    _refuse_unknown(chain([message], message.annotations, message.groups), "body")
    width = code_width(len(message.annotations))
    groups = []
    row = 0
    for group in message.groups:
        groups.append(_decode_group(group, row, width))
        row += group.count
    return Body(
        message.salt_seed, tuple(map(_decode_annotation, message.annotations)), tuple(groups)
    )


def decode_annotation(data: bytes) -> Annotation:
    """Decode one annotation of a body.

    Raises:
        MalformedError: it is not an annotation.
        LimitError: it has too many labels.
    """
    return _decode_annotation(fields.parse(delta_pb2.Annotation(), data, "annotation"))


def _decode_annotation(message: delta_pb2.Annotation) -> Annotation:
    if len(message.labels) > limits.MAX_LABELS:
        raise LimitError(f"labels: got {len(message.labels)}, at most {limits.MAX_LABELS}")
    try:
        cause = Cause(message.cause)
    except ValueError as error:
        raise MalformedError(f"unknown cause {message.cause}") from error
    return Annotation(
        labels=tuple(message.labels),
        reason=message.reason,
        vocabulary=message.vocabulary,
        cause=cause,
    )


def _decode_group(message: delta_pb2.OpGroup, first_row: int, width: int) -> Group:
    count = message.count
    if not 0 < count <= limits.MAX_BODY_OPS:
        raise LimitError(f"operations: got {count} in a group, 1 to {limits.MAX_BODY_OPS} allowed")
    if len(message.columns) > limits.MAX_ENTRY_FINGERPRINTS:
        raise LimitError(f"columns: got {len(message.columns)}")
    _refuse_unknown(message.columns, "column")
    try:
        kind = OpKind(message.kind)
    except ValueError as error:
        raise MalformedError(f"unknown operation kind {message.kind}") from error
    if message.named_by_fingerprint and not message.columns:
        raise MalformedError("named by a fingerprint, but without columns")
    columns = tuple((column.hash_type, column.width) for column in message.columns)
    shape = Shape(kind, message.named_by_fingerprint, message.id_width, columns)
    # Each read of a bytes field copies it, so read it once.
    ids, codes = message.ids, message.annotation_codes
    digests = tuple(column.digests for column in message.columns)
    fits = (
        len(ids) == count * shape.id_width
        and len(codes) == count * width
        and all(
            column_width and len(column) == count * column_width
            for (_, column_width), column in zip(columns, digests, strict=True)
        )
    )
    if not fits:
        raise MalformedError(f"the columns of a group do not fit its count of {count}")
    return Group(shape, first_row, count, ids, digests, decode_codes(codes, width))
