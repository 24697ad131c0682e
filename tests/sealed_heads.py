"""Heads of real digits and the host's view of their ciphertexts, honest or with an owner's mistake in them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tenseal.sealapi as sealapi

from rhe_parties.attacks.base import PriorKnowledge
from rhe_parties.attacks.span.shadows import balanced_sets
from rhe_parties.data.datasets import load_dataset
from rhe_parties.data.splits import split_dataset, victim_sets
from rhe_parties.he import sealio
from rhe_parties.he.plan import FINE_BITS, HeadPlan
from rhe_parties.he.planner import plan_head
from rhe_parties.he.quantise import quantise_head
from rhe_parties.he.scheme import HeadCiphertexts, PublicMaterial, make_custody, make_encryptor
from rhe_parties.he.seal_format import write_ciphertext
from rhe_parties.messages import Envelope, Payload, encode
from rhe_parties.messages.payloads import EncryptedHead
from rhe_parties.model.backbone import load_backbone
from rhe_parties.model.head import Recipe, train_heads
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER, MODEL_HOST
from rhe_parties.threat.view import AdversaryView
from rhe_parties.types import FloatArray, IntArray

CLASSES, VICTIMS, SHADOWS = 10, 24, 96
FEATURE_NORM = 22.627416997969522

Encrypt = Callable[[PublicMaterial, FloatArray, FloatArray], list[HeadCiphertexts]]


@dataclass(frozen=True)
class Digits:
    """Victims with one image per class, and what the adversary knows beforehand."""

    private: FloatArray  # [V, N, D]
    weight: FloatArray
    bias: FloatArray
    shadow_weight: FloatArray
    shadow_bias: FloatArray
    prior: PriorKnowledge

    @property
    def head_ids(self) -> tuple[str, ...]:
        return tuple(f"victim-{index:04d}" for index in range(len(self.weight)))


@functools.cache
def digits() -> Digits:
    dataset, recipe = load_dataset("digits"), Recipe.paper("strokenet", 1)
    splits = split_dataset(dataset, 5)
    sets = victim_sets(dataset.labels, splits.private, 1, VICTIMS, 5)
    backbone = load_backbone("strokenet")
    private = backbone.extract(dataset.images[sets.ravel()]).reshape(*sets.shape, -1)
    weight, bias = train_heads(private, dataset.labels[sets], CLASSES, recipe, range(VICTIMS))
    images, labels = dataset.images[splits.auxiliary], dataset.labels[splits.auxiliary]
    prior = PriorKnowledge(backbone, recipe, CLASSES, 1, images, labels)
    own = balanced_sets(labels, CLASSES, 1, SHADOWS, 6)
    seeds = range(1000, 1000 + SHADOWS)
    shadows = train_heads(prior.auxiliary_features[own], labels[own], CLASSES, recipe, seeds)
    return Digits(private, weight, bias, *shadows, prior)


def plan(scheme: str = "bfv") -> HeadPlan:
    return plan_head(256, CLASSES, scheme=scheme, feature_norm=FEATURE_NORM)


@functools.cache
def material(scheme: str = "bfv") -> PublicMaterial:
    return make_custody(plan(scheme)).public


def honest(public: PublicMaterial, weight: FloatArray, bias: FloatArray) -> list[HeadCiphertexts]:
    encryptor = make_encryptor(public)
    return [encryptor.encrypt(w, b)[0] for w, b in zip(weight, bias, strict=True)]


def on_one_mask(public: PublicMaterial, weight: FloatArray, bias: FloatArray) -> list[HeadCiphertexts]:
    """An owner that saves time: zero is encrypted once per tile, and every head is added to that."""
    context = sealio.plan_context(public.plan)
    key = sealio.load_public_key(context, public.public_key, public.plan.degree, len(public.plan.coeff_modulus))
    encryptor, evaluator = sealapi.Encryptor(context, key), sealapi.Evaluator(context)
    zeros = [sealapi.Ciphertext(context) for _ in range(public.plan.head_ciphertexts)]
    for zero in zeros:
        encryptor.encrypt_zero(zero)
    return [_added(public, context, evaluator, zeros, w, b) for w, b in zip(weight, bias, strict=True)]


def not_at_all(public: PublicMaterial, weight: FloatArray, bias: FloatArray) -> list[HeadCiphertexts]:
    """An owner whose library "encrypts" with zero for a mask: c1 = 0, c0 = Δm."""
    q, t, heads = public.plan.prime, public.plan.plain_modulus, []
    for rows in map(functools.partial(_packed, public), weight, bias):
        scaled = [[(int(number) * q + t // 2) // t % q for number in row] for row in rows]
        residues = [np.stack([np.array(row, np.uint64), np.zeros(len(row), np.uint64)]) for row in scaled]
        data = [write_ciphertext(item, sealio.parms_id(public.plan)) for item in residues]
        heads.append(HeadCiphertexts(tuple(map(sealio.with_checksum, data)), public.fingerprint))
    return heads


def _packed(public: PublicMaterial, weight: FloatArray, bias: FloatArray) -> IntArray:
    integers = quantise_head(public.plan, weight, bias).weights
    return public.plan.layout.pack_weights(integers).reshape(-1, public.plan.degree)


def _added(
    public: PublicMaterial, context: Any, evaluator: Any, zeros: list[Any], weight: FloatArray, bias: FloatArray
) -> HeadCiphertexts:
    data = []
    for zero, row in zip(zeros, _packed(public, weight, bias), strict=True):
        value = sealapi.Ciphertext(context)
        message = sealio.make_plaintext(context, row << (FINE_BITS - public.plan.plain_bits), 1 << FINE_BITS)
        evaluator.add_plain(zero, message, value)
        data.append(sealio.with_checksum(sealio.to_bytes(value)))
    return HeadCiphertexts(tuple(data), public.fingerprint)


def host_view(public: PublicMaterial, heads: Sequence[HeadCiphertexts], head_ids: Sequence[str]) -> AdversaryView:
    """What a host sees that was sent keys and encrypted heads."""
    sent: list[tuple[str, Payload]] = [(KEY_HOLDER, public)]
    for name, head in zip(head_ids, heads, strict=True):
        sent.append((DATA_OWNER, EncryptedHead(name, head.key_fingerprint, "b" * 64, head.ciphertexts)))
    return AdversaryView(
        tuple(encode(Envelope("r", who, MODEL_HOST, index + 1, 0, what)) for index, (who, what) in enumerate(sent))
    )
