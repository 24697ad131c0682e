"""The secret key has no way out; the encryption code keeps to its side of the walls."""

from __future__ import annotations

import ast
import copy
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import tenseal.sealapi as sealapi

import rhe_parties.he
from rhe_parties.he import sealio
from rhe_parties.he.planner import plan_head
from rhe_parties.he.scheme import make_custody, make_encryptor, make_evaluator
from tests.key_spy import KeySpy, key_needles, key_words

FOLDER = Path(rhe_parties.he.__file__).parent


@pytest.mark.parametrize("scheme", ["bfv", "ckks"])
def test_no_public_object_holds_the_secret(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    KeySpy.seen.clear()
    monkeypatch.setattr(sealapi, "KeyGenerator", KeySpy)
    plan = plan_head(30, 2, scheme=scheme)
    custody = make_custody(plan)
    (secret,) = KeySpy.seen
    encryptor = make_encryptor(custody.public)
    head, _ = encryptor.encrypt(np.ones((2, 30)), np.zeros(2))
    evaluator = make_evaluator(custody.public, head)
    reply, _ = evaluator.evaluate(np.ones((1, 30)))

    words = key_words(secret, plan.degree)
    needles = key_needles(secret, plan.degree)
    assert all(needle in sealio.to_bytes(secret) or needle in words for needle in needles)
    public_bytes = [pickle.dumps(value) for value in (custody.public, head, reply)]
    public_bytes += [repr(value).encode() for value in (custody, custody.public, encryptor, evaluator, head, reply)]
    assert not any(needle in data for needle in needles for data in public_bytes)

    # SEAL's objects are compressed, so also compare the numbers of the public key with the secret's.
    context = sealio.plan_context(plan)
    key = sealio.load_public_key(context, custody.public.public_key, plan.degree, len(plan.coeff_modulus))
    residues = sealio.ciphertext_residues(key.data())[:, 0]
    digits = np.frombuffer(words, dtype="<u8")
    prime = plan.coeff_modulus[0]
    for polynomial in residues:
        assert (polynomial == digits).mean() < 0.01
        assert (polynomial == (prime - digits) % prime).mean() < 0.01


@pytest.mark.parametrize("scheme", ["plain", "bfv", "ckks"])
def test_custody_cannot_be_copied_pickled_or_read(scheme: str) -> None:
    custody = make_custody(plan_head(4, 2, scheme=scheme))
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps, lambda value: value.__getstate__(), vars):
        with pytest.raises(TypeError):
            attempt(custody)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="holds a secret key"):
            pickle.dumps(custody, protocol)
    assert custody.public.fingerprint[:16] in repr(custody)
    assert len(repr(custody)) < 80
    shown = {name for name in dir(custody) if not name.startswith("_")}
    # Under ckks decryption shows more than logits: what the policy `raw` releases, and nothing else asks for.
    assert shown == {"public", "decrypt", *(["decrypt_slots"] if scheme == "ckks" else [])}


def test_public_values_show_no_bytes() -> None:
    custody = make_custody(plan_head(4, 2))
    head, _ = make_encryptor(custody.public).encrypt(np.ones((2, 4)), np.zeros(2))
    assert len(repr(head)) < 200
    # A byte literal starts after "=", "(", "[" or a space; a fingerprint may itself end in the letter b.
    assert not re.search(r"(?<![0-9a-zA-Z])b['\"]", repr(custody.public) + repr(head))


def test_the_scale_of_the_head_does_not_reach_the_host() -> None:
    """Heads that differ by a factor give the same integers: what the host gets does not depend on it."""
    plan = plan_head(12, 3, scheme="plain")
    custody = make_custody(plan)
    weight = np.random.default_rng(0).normal(size=(3, 12))
    one, unit_one = make_encryptor(custody.public).encrypt(weight, np.ones(3))
    two, unit_two = make_encryptor(custody.public).encrypt(weight * 1024, np.ones(3) * 1024)
    assert one == two
    assert unit_two == pytest.approx(1024 * unit_one)


def test_encryption_code_keeps_to_its_side() -> None:
    allowed = {
        "rhe_parties.errors",
        "rhe_parties.types",
        "rhe_parties.rng",
        "rhe_parties.registry",
        "rhe_parties.jit_cache",
    }
    files = sorted(FOLDER.glob("*.py"))
    assert len(files) >= 10
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path.name} uses a relative import"
                names = [node.module or ""]
                if node.module == "rhe_parties":
                    names = [f"rhe_parties.{alias.name}" for alias in node.names]
            for name in names:
                root = name.split(".")[0]
                forbidden = {"ray", "grpc", "torch", "pickle", "dill", "cloudpickle", "random"}
                if path.name.startswith("torch_"):
                    forbidden -= {"torch"}
                assert root not in forbidden, (path.name, name)
                if root == "rhe_parties":
                    assert name in allowed or name.startswith("rhe_parties.he"), (path.name, name)


def test_the_planner_needs_no_seal() -> None:
    for name in (
        "plan",
        "planner",
        "layout",
        "noise",
        "primes",
        "security",
        "sizes",
        "describe",
        "quantise",
        "reply",
        "levelled_layout",
    ):
        assert "tenseal" not in (FOLDER / f"{name}.py").read_text(encoding="utf-8").replace("`tenseal", "")
