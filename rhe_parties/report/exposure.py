"""Who saw what in a world, derived from the kinds of its messages."""

from __future__ import annotations

from dataclasses import dataclass

from rhe_parties.report.record import WorldRecord
from rhe_parties.report.wording import encrypted

__all__ = ["LANES", "Exposure", "exposure"]

LANES = ("laboratory", "data-owner", "key-holder", "model-host")

_YES, _NO, _CIPHER = "yes", "no", "encrypted"


@dataclass(frozen=True)
class Exposure:
    """One kind of information: `yes`, `no` or `encrypted` per party of `LANES`, and for the adversary."""

    what: str
    parties: tuple[str, ...]
    adversary: str


@dataclass(frozen=True)
class _Source:
    """Information, who has it without any message, and which message kinds carry it to both of their ends."""

    what: str
    owners: frozenset[str]
    kinds: frozenset[str]
    ciphertext_at: frozenset[str] = frozenset()
    plain_kinds: frozenset[str] = frozenset()
    """Those of `kinds` that carry it in clear although others carry ciphertexts."""


_PLAIN_HEADS = frozenset({"plain_head", "two_layer_head"})


def _sources(world: WorldRecord, release: str) -> list[_Source]:
    hidden = encrypted(world)
    host = frozenset({"model-host"})
    none: frozenset[str] = frozenset()
    kinds = {message.kind for message in world.messages}
    trained = "train_head" in kinds
    owner = frozenset({"data-owner"}) if trained else none
    released = none if release == "classes" else frozenset({"decision"})
    # Under RHE the host computes logits that it cannot read; the key holder at the other end can.
    return [
        _Source("private training images", owner | {"laboratory"} if trained else none, none),
        _Source("head weights in clear", owner, _PLAIN_HEADS if hidden else _PLAIN_HEADS | {"encrypted_head"}),
        _Source("encrypted head", none, frozenset({"encrypted_head"}) if hidden else none, host),
        _Source("secret key", frozenset({"key-holder"}) if "public_material" in kinds else none, none),
        _Source("input images to classify", none, frozenset({"ask_decisions", "classify_request"})),
        _Source("logits", none, frozenset({"classify_response"}) | released, host if hidden else none, released),
        # Whoever reads logits in clear has the decisions as well.
        _Source(
            "decisions",
            host if "classify_response" in kinds and not hidden else none,
            frozenset({"decision"}),
        ),
    ]


def exposure(world: WorldRecord, corrupted: list[str], release: str = "classes") -> list[Exposure]:
    """One row per kind of information.

    The adversary's cell follows from the messages marked as seen and from what its corrupted parties hold
    themselves. Logits seen in transit under encryption are ciphertexts, unless the key holder's release policy
    sends them on.
    """
    rows = []
    for source in _sources(world, release):
        carrying = [message for message in world.messages if message.kind in source.kinds]
        ends = {end for message in carrying for end in (message.sender, message.recipient)} | source.owners
        cells = tuple(_cell(party in ends, party in source.ciphertext_at) for party in LANES)
        held = {_cell(party in ends, party in source.ciphertext_at) for party in corrupted}
        for message in carrying:
            if message.seen_by_adversary:
                hidden = source.ciphertext_at and message.kind not in source.plain_kinds
                held.add(_CIPHER if hidden else _YES)
        rows.append(Exposure(source.what, cells, _strongest(held)))
    return rows


def _cell(has: bool, ciphertext: bool) -> str:
    if not has:
        return _NO
    return _CIPHER if ciphertext else _YES


def _strongest(cells: set[str]) -> str:
    return next((word for word in (_YES, _CIPHER) if word in cells), _NO)
