"""Any head that parties carry, encrypted."""

from __future__ import annotations

from rhe_parties.he.scheme import HeadCiphertexts, HeadEncryptor
from rhe_parties.model.binary_head import BinaryHead
from rhe_parties.model.head import LinearHead

__all__ = ["encrypt_head"]


def encrypt_head(encryptor: HeadEncryptor, head: LinearHead | BinaryHead) -> tuple[HeadCiphertexts, float]:
    """Ciphertexts and the scale of the logits; a binary head with x² is encrypted with both of its logits.

    Raises:
        NumericError: as `HeadEncryptor.encrypt`.
    """
    if isinstance(head, BinaryHead):
        return encryptor.encrypt(*head.last_layer, [head.hidden_layer])
    return encryptor.encrypt(head.weight, head.bias)
