"""The three roles of an encrypted head as capabilities, and the schemes that fill them.

    custody   = make_custody(plan)                  key holder: makes the keys, decrypts
    encryptor = make_encryptor(custody.public)      data owner: encrypts a head
    evaluator = make_evaluator(public, head)        model host: features in, encrypted logits out

Only the custody holds a secret, and it gives it to nobody. What crosses a border are the frozen values
below. The scheme is part of the plan. Which ciphertexts belong together is checked by a fingerprint over
plan and keys. That a reply was really computed with this head on this input is *not* checked: whoever has
the public key can encrypt any logits.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol, SupportsIndex

from rhe_parties.errors import FailureCode, ParameterError, SchemeError, unknown_name
from rhe_parties.he.plan import HeadPlan
from rhe_parties.types import AnyArray

__all__ = [
    "NOISE_CHECKED",
    "HeadCiphertexts",
    "HeadEncryptor",
    "HeadEvaluator",
    "KeyCustody",
    "LogitCiphertexts",
    "NoCopies",
    "PublicMaterial",
    "check_head",
    "check_public",
    "check_reply",
    "custody_of",
    "fingerprint",
    "framed_sha256",
    "fresh_keys",
    "make_custody",
    "make_encryptor",
    "make_evaluator",
    "public_material",
    "scheme_catalogue",
]

MAX_REPLY_BATCH = 65_536
#: The scheme whose key holder can see the noise of a reply.
NOISE_CHECKED = "bfv"


@dataclass(frozen=True, slots=True)
class PublicMaterial:
    """What the key holder publishes: plan and public keys; `fingerprint` is SHA-256 over both."""

    plan: HeadPlan
    public_key: bytes = field(repr=False)
    evaluation_keys: bytes = field(repr=False)
    fingerprint: str


@dataclass(frozen=True, slots=True)
class HeadCiphertexts:
    """An encrypted head, class tiles outermost, bound to the keys that it was encrypted with."""

    ciphertexts: tuple[bytes, ...] = field(repr=False)
    key_fingerprint: str


@dataclass(frozen=True, slots=True)
class LogitCiphertexts:
    """Encrypted logits of `batch` inputs: class tiles of the first request polynomial, then of the next."""

    ciphertexts: tuple[bytes, ...] = field(repr=False)
    batch: int


class KeyCustody(Protocol):
    """The key holder's capability. It cannot be copied or pickled and has no way to read the secret."""

    @property
    def public(self) -> PublicMaterial:
        """What everybody may have."""
        ...

    def decrypt(self, logits: LogitCiphertexts) -> AnyArray:
        """Decrypted logits [B, K]: int64 (`plain`, `bfv`) or float64 (`ckks`), in units of the head's scale.

        Raises:
            SchemeError: BAD_CIPHERTEXT for damaged, transparent or foreign ciphertexts or a wrong number of
            them.
            NoiseError: the noise shows that they were not made for this key, or tampered with.
        """
        ...


class HeadEncryptor(Protocol):
    """The data owner's capability."""

    def encrypt(
        self, weight: AnyArray, bias: AnyArray, hidden: Sequence[tuple[AnyArray, AnyArray]] = ()
    ) -> tuple[HeadCiphertexts, float]:
        """Encrypt weights [K, D] and bias [K]; the second value times a decrypted logit is the real logit.

        With `hidden` layers (weights [out, in] and bias [out], in the order of evaluation, each followed by x²)
        the weights are those of the last layer.

        That scale follows from the private head: it goes to the key holder, never to the host.

        Raises:
            NumericError: BAD_TENSOR for other shapes, BAD_VALUE for NaN, infinite or unusably large weights.
        """
        ...


class HeadEvaluator(Protocol):
    """The host's capability; it holds no secret."""

    def evaluate(self, features: AnyArray) -> tuple[LogitCiphertexts, int]:
        """Encrypted logits of features [B, D], and how many inputs were scaled down to the public norm bound.

        Raises:
            NumericError: BAD_TENSOR for another shape, BAD_VALUE for NaN or infinite features.
        """
        ...


class NoCopies:
    """Mixin for holders of secrets: copying and pickling raise TypeError."""

    __slots__ = ()

    def __getstate__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds a secret key and cannot be copied or serialised")

    def __copy__(self) -> NoReturn:
        self.__getstate__()

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__getstate__()

    def __reduce__(self) -> NoReturn:
        self.__getstate__()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        self.__getstate__()


_MODULES = {
    "bfv": "rhe_parties.he.bfv",
    "ckks": "rhe_parties.he.ckks",
    "plain": "rhe_parties.he.plain",
}
_LEVELLED = "rhe_parties.he.levelled"
"""Scheme `ckks` where the head has hidden layers."""
_SUMMARIES = {
    "bfv": "exact integers packed into coefficients, no evaluation keys; one layer, or two with x² (SEAL)",
    "ckks": "the paper's way: a TenSEAL vector per class, rotations; two and three layers with x² by levels",
    "plain": "no protection: the integer twin of bfv that the host can read, for comparison",
}


def scheme_catalogue() -> dict[str, str]:
    """Names of all schemes with one-line summaries."""
    return dict(_SUMMARIES)


def _module(plan: HeadPlan) -> Any:
    if plan.scheme not in _MODULES:
        raise unknown_name("scheme", plan.scheme, _MODULES)
    levelled = plan.scheme == "ckks" and plan.hidden
    return importlib.import_module(_LEVELLED if levelled else _MODULES[plan.scheme])


def make_custody(plan: HeadPlan, noise_check: bool = True) -> KeyCustody:
    """Fresh keys for the plan, in the key holder's process.

    Args:
        plan: of the encrypted head.
        noise_check: False, for scheme `bfv` alone: replies are decrypted whatever their noise.

    Raises:
        ParameterError: the scheme is unknown, or it has no noise check that could be left out.
    """
    return custody_of(*fresh_keys(plan), noise_check)


def fresh_keys(plan: HeadPlan) -> tuple[Any, PublicMaterial]:
    """A new secret key, SEAL's own object (None under `plain`), and what is published of it.

    For this module and `sealed` alone: everybody else has a custody, which shows no secret.

    Raises:
        ParameterError: the scheme is unknown.
    """
    keys: tuple[Any, PublicMaterial] = _module(plan).fresh_keys(plan)
    return keys


def custody_of(secret: Any, public: PublicMaterial, noise_check: bool = True) -> KeyCustody:
    """The custody of a secret key; for this module and `sealed` alone.

    Raises:
        ParameterError: the scheme is unknown, or it has no noise check that could be left out.
    """
    scheme = public.plan.scheme
    if not noise_check and scheme != NOISE_CHECKED:
        raise ParameterError(f"scheme {scheme!r} has no noise check to leave out (allowed: {NOISE_CHECKED!r})")
    options = {} if noise_check else {"noise_check": False}
    custody: KeyCustody = _module(public.plan).custody_of(secret, public, **options)
    return custody


def make_encryptor(public: PublicMaterial) -> HeadEncryptor:
    """The data owner's side for published keys.

    Raises:
        SchemeError: the fingerprint does not match or the keys are damaged.
    """
    check_public(public)
    encryptor: HeadEncryptor = _module(public.plan).make_encryptor(public)
    return encryptor


def make_evaluator(
    public: PublicMaterial, head: HeadCiphertexts, backend: str = "auto", device: str = "cpu"
) -> HeadEvaluator:
    """The host's side for published keys and an encrypted head.

    Args:
        public: plan and public keys.
        head: the encrypted head.
        backend: who multiplies under `bfv`: see `evaluators.load_evaluator`.
        device: torch's name of the device where features are.

    Raises:
        ParameterError: unknown backend.
        SchemeError: WRONG_KEY when head and keys do not belong together, BAD_CIPHERTEXT for a damaged head.
    """
    check_public(public)
    check_head(public, head)
    evaluator: HeadEvaluator = _module(public.plan).make_evaluator(public, head, backend, device)
    return evaluator


def fingerprint(plan: HeadPlan, public_key: bytes, evaluation_keys: bytes) -> str:
    """SHA-256 (hex) over the plan and the public keys, each with its length in front."""
    return framed_sha256(b"rhe_parties public material 1", (plan.identity(), public_key, evaluation_keys)).hex()


def framed_sha256(purpose: bytes, parts: Iterable[bytes]) -> bytes:
    """SHA-256 over a purpose and parts, each part with its length in front, so that no two lists collide by joining."""
    digest = hashlib.sha256(purpose)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def public_material(plan: HeadPlan, public_key: bytes, evaluation_keys: bytes = b"") -> PublicMaterial:
    """Public material with its fingerprint."""
    return PublicMaterial(plan, public_key, evaluation_keys, fingerprint(plan, public_key, evaluation_keys))


def check_public(public: PublicMaterial) -> None:
    """Raise unless the plan is sound and the fingerprint matches.

    Raises:
        SchemeError: MALFORMED for an unsound plan, WRONG_KEY for another fingerprint.
    """
    HeadPlan.from_dict(public.plan.to_dict())
    expected = fingerprint(public.plan, public.public_key, public.evaluation_keys)
    if public.fingerprint != expected:
        given = f"{str(public.fingerprint)[:12]!r} is given, {expected[:12]!r} computed"
        raise SchemeError(FailureCode.WRONG_KEY, f"the keys do not match their fingerprint: {given}")


def check_head(public: PublicMaterial, head: HeadCiphertexts) -> None:
    """Raise unless the head was encrypted for these keys and has the planned number of ciphertexts.

    Raises:
        SchemeError: WRONG_KEY or BAD_CIPHERTEXT.
    """
    if head.key_fingerprint != public.fingerprint:
        given = f"{str(head.key_fingerprint)[:12]!r}, the keys are {public.fingerprint[:12]!r}"
        raise SchemeError(FailureCode.WRONG_KEY, f"the head was encrypted for other keys: {given}")
    expected = public.plan.head_ciphertexts
    if len(head.ciphertexts) != expected:
        text = f"the head has {len(head.ciphertexts)} ciphertexts (allowed: {expected})"
        raise SchemeError(FailureCode.BAD_CIPHERTEXT, text)


def check_reply(plan: HeadPlan, logits: LogitCiphertexts) -> None:
    """Raise unless the number of ciphertexts fits the batch.

    Raises:
        SchemeError: BAD_CIPHERTEXT.
    """
    batch = logits.batch
    if isinstance(batch, bool) or not isinstance(batch, int) or not 0 <= batch <= MAX_REPLY_BATCH:
        text = f"a reply for {str(batch)[:40]} inputs is not allowed (allowed: 0 to {MAX_REPLY_BATCH})"
        raise SchemeError(FailureCode.BAD_CIPHERTEXT, text)
    expected = -(-batch // plan.batch) * plan.class_tiles
    if len(logits.ciphertexts) != expected:
        text = f"the reply has {len(logits.ciphertexts)} ciphertexts for {batch} inputs (allowed: {expected})"
        raise SchemeError(FailureCode.BAD_CIPHERTEXT, text)
