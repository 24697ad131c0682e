"""A secret key at rest: sealed when it is born, and only then, to an age recipient; opened by that one's identity.

The age format (age-encryption.org/v1, X25519 recipients) through `pyrage`. SEAL writes the secret into a file in
memory, `pyrage` reads it there, and the other way round when it is opened: the secret is never a Python value and no
file on a disk, and the file in memory lives for one call. Where the system has none, nothing is sealed. Against whoever
reads the memory of this process, its swapped pages or core dumps this is no protection.

Inside the seal, in this order, numbers little-endian: SEAL's secret key object as SEAL saves it; then, each with its
length in front (8 bytes), a purpose, the plan as JSON, the public key, the evaluation keys, their fingerprint.

A seal hides and shows damage. It does not say who sealed: whoever knows the recipient can seal a key of their own, and
whoever kept an old seal can put it back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO

import pyrage
import tenseal.sealapi as sealapi

from rhe_parties.errors import FailureCode, ParameterError, SchemeError
from rhe_parties.he import sealio
from rhe_parties.he.memory_file import memory_file
from rhe_parties.he.opening import Opening
from rhe_parties.he.plan import HeadPlan
from rhe_parties.he.scheme import KeyCustody, PublicMaterial, custody_of, fresh_keys, public_material
from rhe_parties.he.seal_format import OBJECT_HEADER_BYTES, object_size

__all__ = ["check_sealable", "sealed_custody", "unsealed_custody"]

_PURPOSE = b"rhe_parties sealed key 1"
_LENGTH_BYTES = 8
_SEALABLE = ("bfv", "ckks")


def check_sealable(plan: HeadPlan) -> None:
    """Raise unless the plan's scheme has a secret key.

    Raises:
        ParameterError: it is `plain`.
    """
    if plan.scheme not in _SEALABLE:
        allowed = ", ".join(_SEALABLE)
        raise ParameterError(f"scheme {plan.scheme!r} has no secret key that could be sealed (allowed: {allowed})")


def sealed_custody(
    plan: HeadPlan, recipient: pyrage.x25519.Recipient, noise_check: bool = True
) -> tuple[KeyCustody, bytes]:
    """Fresh keys for the plan, and the same keys sealed to the recipient.

    Args:
        plan: of the encrypted head.
        recipient: who can open the seal.
        noise_check: as in `scheme.make_custody`; it is no part of the seal.

    Raises:
        ParameterError: the scheme has no secret key (`plain`) or no noise check that could be left out, or this system
            has no files in memory.
    """
    check_sealable(plan)
    with _in_memory() as (opened, opened_path), _in_memory() as (sealed, sealed_path):
        secret, public = fresh_keys(plan)
        secret.save(opened_path)
        opened.seek(0, 2)
        opened.write(_framed(public))
        pyrage.encrypt_file(opened_path, sealed_path, [recipient])
        sealed.seek(0)
        return custody_of(secret, public, noise_check), sealed.read()


def unsealed_custody(data: bytes, identity: pyrage.x25519.Identity, noise_check: bool = True) -> KeyCustody:
    """The custody of keys that `sealed_custody` sealed.

    The fingerprint is computed anew, and a fresh ciphertext of the public key must open under the secret key.

    Args:
        data: the seal.
        identity: of its recipient.
        noise_check: as in `scheme.make_custody`.

    Raises:
        SchemeError: WRONG_KEY for another identity, damage, or keys that do not belong together; MALFORMED for an
            unsound plan.
        ParameterError: the scheme has no noise check that could be left out, or this system has no files in memory.
    """
    with _in_memory() as (opened, opened_path), _in_memory() as (sealed, sealed_path):
        sealed.write(data)
        try:
            pyrage.decrypt_file(sealed_path, opened_path, [identity])
        except (pyrage.DecryptError, OSError) as error:  # damage of the body comes as an OSError
            raise _unfit(f"it does not open ({' '.join(str(error).split())})") from None
        public = _public_behind(opened)
        secret = sealapi.SecretKey()
        with sealio.guarded("loading a sealed secret key", FailureCode.WRONG_KEY):
            secret.load(sealio.plan_context(public.plan), opened_path)
    if not Opening(public.plan, secret).opens_fresh(public):
        raise _unfit("its secret key does not open what its public key encrypts")
    return custody_of(secret, public, noise_check)


@contextmanager
def _in_memory() -> Iterator[tuple[FileIO, str]]:
    found = memory_file("key")
    if found is None:
        raise ParameterError("keys can be kept only where the system has files in memory (Linux with /proc)")
    with found[0]:
        yield found


def _unfit(reason: str) -> SchemeError:
    return SchemeError(FailureCode.WRONG_KEY, f"the sealed key cannot be used: {reason}")


def _framed(public: PublicMaterial) -> bytes:
    plan = json.dumps(public.plan.choices()).encode()
    parts = (_PURPOSE, plan, public.public_key, public.evaluation_keys, public.fingerprint.encode())
    return b"".join(len(part).to_bytes(_LENGTH_BYTES, "little") + part for part in parts)


def _public_behind(opened: FileIO) -> PublicMaterial:
    """What stands behind the secret, which is not read.

    Raises:
        SchemeError: WRONG_KEY where that is anything but plan, public keys and their fingerprint, MALFORMED for an
            unsound plan.
    """
    opened.seek(0)
    size = object_size(opened.read(OBJECT_HEADER_BYTES), FailureCode.WRONG_KEY)
    opened.seek(min(size, opened.seek(0, 2)))
    whole = rest = opened.readall()
    parts: list[bytes] = []
    while rest:
        end = _LENGTH_BYTES + int.from_bytes(rest[:_LENGTH_BYTES], "little")
        parts.append(rest[_LENGTH_BYTES:end])
        rest = rest[end:]
    try:
        _, plan, public_key, evaluation_keys, _ = parts
        public = public_material(HeadPlan.from_dict(json.loads(plan)), public_key, evaluation_keys)
    except ValueError as error:
        raise _unfit(f"it holds something else than this program seals ({error})") from None
    if _framed(public) != whole:
        raise _unfit("what it holds does not match its fingerprint, or is of another version of this program")
    return public
