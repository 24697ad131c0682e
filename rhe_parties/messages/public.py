"""Public key material as bytes of its own, to be published or kept: what an export holds, and nothing else."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from rhe_parties.errors import FailureCode, MessageError
from rhe_parties.he.scheme import PublicMaterial, check_public
from rhe_parties.messages.envelope import MAX_ENVELOPE_BYTES
from rhe_parties.messages.serde import value_from_proto, value_to_proto
from rhe_parties.proto import he_pb2

__all__ = ["export_public", "import_public"]


def export_public(material: PublicMaterial) -> bytes:
    """The serialised `PublicMaterial` message: plan, public keys and their fingerprint."""
    message = he_pb2.PublicMaterial()
    value_to_proto(material, message)
    return message.SerializeToString(deterministic=True)


def import_public(data: bytes) -> PublicMaterial:
    """Read what `export_public` wrote.

    Raises:
        MessageError: MALFORMED or OVERSIZED: no public material, or anything besides it.
        SchemeError: MALFORMED for an unsound plan, WRONG_KEY where the fingerprint does not match.
    """
    if len(data) > MAX_ENVELOPE_BYTES:
        raise MessageError(
            FailureCode.OVERSIZED, f"public material of {len(data)} bytes; at most {MAX_ENVELOPE_BYTES} are allowed"
        )
    message = he_pb2.PublicMaterial()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise MessageError(FailureCode.MALFORMED, f"{len(data)} bytes are no public material: {error}") from error
    material = value_from_proto(message, PublicMaterial)
    check_public(material)
    if export_public(material) != data:
        raise MessageError(FailureCode.MALFORMED, "the export holds something besides public material")
    return material
