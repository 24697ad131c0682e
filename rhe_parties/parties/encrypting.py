"""How an owner encrypts a head, in a simulation as in a deployment."""

from __future__ import annotations

import numpy as np

from rhe_parties.he.scheme import HeadEncryptor
from rhe_parties.he.tag import encrypt_tagged
from rhe_parties.messages.checks import empty
from rhe_parties.messages.payloads import AdaptedBlock, EncryptedHead
from rhe_parties.model.binary_head import BinaryHead
from rhe_parties.model.head import LinearHead
from rhe_parties.types import IntArray

__all__ = ["encrypted_head"]


def encrypted_head(
    encryptor: HeadEncryptor,
    head_id: str,
    head: LinearHead | BinaryHead,
    backbone_fingerprint: str,
    tagged: bool,
    block: AdaptedBlock | None = None,
) -> tuple[EncryptedHead, float, IntArray]:
    """What the host is sent of a head, and the two secrets that the key holder is told.

    Args:
        encryptor: for the key holder's public material.
        head_id: name of the head.
        head: in the clear; the plan has as many classes, or one more where it is tagged.
        backbone_fingerprint: of the backbone that it was trained on.
        tagged: whether it gets a secret last row by which the key holder knows honest replies.
        block: the backbone's last block, where that was trained along; it is never encrypted.

    Returns:
        the message to the host, the scale as in `HeadEncryptor.encrypt`, and the tag, int64 [K], or empty.

    Raises:
        NumericError: as `HeadEncryptor.encrypt`.
    """
    tag: IntArray = empty(np.float32)
    if tagged:
        held, scale, tag = encrypt_tagged(encryptor, *head.encryptable)
    else:
        held, scale = encryptor.encrypt(*head.encryptable)
    return EncryptedHead(head_id, held.key_fingerprint, backbone_fingerprint, held.ciphertexts, block), scale, tag
