"""Hashes that bind what belongs together: a head to what was installed, a reply to the requests that it answers."""

from __future__ import annotations

import dataclasses

from rhe_parties.he.scheme import framed_sha256
from rhe_parties.messages.payloads import ClassifyResponse, EncryptedHead, PlainHead, TwoLayerHead

__all__ = ["head_fingerprint", "response_digest", "sealed"]


def head_fingerprint(payload: PlainHead | TwoLayerHead | EncryptedHead) -> str:
    """SHA-256, hexadecimal, over everything of a head that the host installs; owner and host compute it alike."""
    if isinstance(payload, PlainHead):
        parts = [payload.backbone_fingerprint.encode(), payload.weight.tobytes(), payload.bias.tobytes()]
    elif isinstance(payload, TwoLayerHead):
        layers = (payload.hidden_weight, payload.hidden_bias, payload.weight, payload.bias)
        parts = [payload.backbone_fingerprint.encode(), payload.activation.encode(), *(a.tobytes() for a in layers)]
    else:
        parts = [payload.backbone_fingerprint.encode(), payload.key_fingerprint.encode(), *payload.ciphertexts]
    block = None if isinstance(payload, TwoLayerHead) else payload.block
    if block is not None:
        for name, tensor in block.by_name.items():
            parts += [name.encode(), repr(tensor.shape).encode(), tensor.tobytes()]
    return framed_sha256(b"", parts).hex()


def response_digest(response: ClassifyResponse) -> bytes:
    """SHA-256 over everything in a response but the digest itself.

    No key goes into it: it shows damage and mixed up replies, not tampering.
    """
    pieces = [response.head_id.encode(), response.head_fingerprint.encode(), response.key_fingerprint.encode()]
    for part in response.parts:
        pieces += [part.request_id.encode(), b"%d %d" % (part.batch, part.saturated)]
    pieces += [repr(response.plain_logits.shape).encode(), response.plain_logits.astype("<f4").tobytes()]
    return framed_sha256(b"rhe_parties response 1", [*pieces, *response.ciphertexts])


def sealed(response: ClassifyResponse) -> ClassifyResponse:
    """The same response with its digest."""
    return dataclasses.replace(response, digest=response_digest(response))
