"""A host that answers as it likes: what it learns through classes alone, and what the tag sees of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rhe_parties.attacks.malicious.noise import key_by_refusals, key_by_rounding
from rhe_parties.attacks.malicious.secret import key_decisions, read_key, readable
from rhe_parties.attacks.malicious.weights import compare_weights, levels
from rhe_parties.errors import FailureCode, MessageError, NoiseError, ParameterError, ProtocolError
from rhe_parties.he.found_key import FoundKey
from rhe_parties.he.malleable import Forge
from rhe_parties.he.plan import HeadPlan
from rhe_parties.he.planner import plan_head
from rhe_parties.he.quantise import quantise_head
from rhe_parties.he.scheme import LogitCiphertexts, make_custody, make_encryptor, make_evaluator
from rhe_parties.he.tag import encrypt_tagged, tag_holds
from rhe_parties.messages import payloads as p
from rhe_parties.messages.setups import KeyHolderSetup
from rhe_parties.metrics.intervals import clopper_pearson
from rhe_parties.runner.parameters import resolve_parameters
from rhe_parties.runner.plan import resolve_worlds
from rhe_parties.testing.bench import Scene, Trial
from rhe_parties.types import AnyArray, IntArray
from tests.ring_reference import negacyclic_product

SMALL = (("batch", 256), ("client_budget", 20_000))
OPTIONS = {"reconstruct": "false", "shadows": "64"}


def _head(plan: HeadPlan, seed: int = 0, rows: int = 0) -> tuple[AnyArray, AnyArray]:
    generator = np.random.default_rng(seed)
    shape = (rows or plan.classes, plan.features)
    return generator.normal(size=shape), generator.normal(size=shape[0])


def _decider(
    custody: Any, asked: list[int], classes: int | None = None
) -> Callable[[tuple[bytes, ...], int], IntArray]:
    """A key holder that tells classes and nothing else."""

    def decide(ciphertexts: tuple[bytes, ...], inputs: int) -> IntArray:
        asked.append(inputs)
        logits = custody.decrypt(LogitCiphertexts(ciphertexts, inputs))
        decided: IntArray = logits[:, :classes].argmax(axis=1)
        return decided

    return decide


def test_what_a_host_can_do_to_ciphertexts() -> None:
    plan = plan_head(20, 6, batch=64)
    forge = Forge(make_custody(plan).public)
    generator = np.random.default_rng(0)
    cipher = generator.integers(0, plan.prime, size=(2, plan.degree), dtype=np.uint64)
    for power in (0, 5, plan.degree - 1, plan.degree, plan.degree + 7, -3):
        monomial = [0] * plan.degree
        monomial[power % plan.degree] = -1 if power % (2 * plan.degree) >= plan.degree else 1
        expected = negacyclic_product(cipher[0].tolist(), monomial, plan.prime)
        assert forge.turned(cipher, power)[0].tolist() == expected, power
    assert (forge.times(cipher, 9) == forge.total([cipher] * 9)).all()


@pytest.mark.parametrize(("features", "classes", "batch"), [(20, 4, 512), (256, 10, 256), (256, 7, 256)])
def test_every_weight_to_eight_bits_by_classes_alone(features: int, classes: int, batch: int) -> None:
    plan = plan_head(features, classes, batch=batch)
    custody = make_custody(plan)
    weight, bias = _head(plan)
    head, _ = make_encryptor(custody.public).encrypt(weight, bias)
    forge, asked = Forge(custody.public), []
    assert levels(forge, classes) >= 2
    found = compare_weights(forge, head, classes, 8, _decider(custody, asked))
    whole = quantise_head(plan, weight, bias).weights
    assert np.abs(found.weights - whole[:, :-1]).max() <= np.ptp(whole[:, :-1]) / 256
    moved = 2.0**plan.feature_bits * np.ptp(whole[:, :-1]) / 256
    assert np.abs(found.biases - whole[:, -1]).max() <= moved
    assert found.decisions == sum(asked)
    assert found.refused == ""
    if (features, classes) == (256, 10):
        assert found.decisions <= 15_000


def test_a_budget_cuts_the_comparison_short() -> None:
    plan = plan_head(20, 4, batch=512)
    custody = make_custody(plan)
    head, _ = make_encryptor(custody.public).encrypt(*_head(plan))
    asked: list[int] = []
    decide = _decider(custody, asked)

    def limited(ciphertexts: tuple[bytes, ...], inputs: int) -> IntArray:
        if sum(asked) + inputs > 200:
            raise ProtocolError(FailureCode.BUDGET, "no more")
        return decide(ciphertexts, inputs)

    found = compare_weights(Forge(custody.public), head, 4, 8, limited)
    assert (found.decisions, found.refused) == (168, "no more")
    whole = quantise_head(plan, *_head(plan)).weights[:, :-1]
    assert 0.7 < np.corrcoef(found.weights.ravel(), whole.ravel())[0, 1] < 0.99


@pytest.mark.parametrize(("features", "classes", "batch"), [(256, 10, 64), (256, 10, 256), (40, 3, 256)])
def test_the_secret_key_by_classes_alone(features: int, classes: int, batch: int) -> None:
    plan = plan_head(features, classes, batch=batch)
    custody = make_custody(plan)
    weight, bias = _head(plan)
    head, _ = make_encryptor(custody.public).encrypt(weight, bias)
    forge, asked = Forge(custody.public), []
    assert readable(forge)
    found = read_key(forge, _decider(custody, asked))
    assert found is not None
    key = FoundKey(plan, found)
    assert key.opens_fresh(custody.public)
    assert sum(asked) == key_decisions(forge) <= 3.2 * plan.degree
    whole = quantise_head(plan, weight, bias).weights
    read_weight, read_bias = key.read_head(custody.public, head)
    np.testing.assert_array_equal(read_weight * plan.feature_norm / 2**plan.feature_bits, whole[:, :-1])
    np.testing.assert_array_equal(read_bias, whole[:, -1])


@pytest.mark.parametrize(("features", "classes", "batch"), [(256, 10, 64), (40, 3, 256)])
def test_the_secret_key_by_failing_decryptions_where_noise_is_not_checked(
    features: int, classes: int, batch: int
) -> None:
    plan = plan_head(features, classes, batch=batch)
    custody = make_custody(plan, noise_check=False)
    asked: list[int] = []
    key = key_by_rounding(Forge(custody.public), _decider(custody, asked))
    assert FoundKey(plan, key).opens_fresh(custody.public)
    assert sum(asked) <= 3.1 * plan.degree
    with pytest.raises(NoiseError):
        key_by_rounding(Forge((checked := make_custody(plan)).public), _decider(checked, []))


def test_the_secret_key_by_refusals_alone_in_spite_of_the_tag() -> None:
    plan = plan_head(20, 4)
    custody = make_custody(plan)
    tag = np.array([3, 5, 7], dtype=np.int64)
    asked, refusals = [0], [0]

    def refused(ciphertexts: tuple[bytes, ...]) -> bool:
        asked[0] += 1
        try:
            assert tag_holds(custody.decrypt(LogitCiphertexts(ciphertexts, 1)), tag, plan)
        except NoiseError:
            refusals[0] += 1
            return True
        return False

    key = key_by_refusals(Forge(custody.public), refused)
    assert key is not None
    assert FoundKey(plan, key).opens_fresh(custody.public)
    assert 1.5 * plan.degree < asked[0] < 2 * plan.degree
    assert refusals[0] > plan.degree / 2
    assert key_by_refusals(Forge(custody.public), lambda _reply: False) is None


@pytest.mark.parametrize("strategy", ["decryption-failure", "reaction"])
def test_a_key_that_closes_gives_nothing_away(strategy: str) -> None:
    report = Trial(strategy, OPTIONS, Scene("rhe+client+malicious", (("client_budget", 0),))).run().report
    assert report.outcome == "claim", report.error
    notes = dict(zip(report.note_names, report.note_values, strict=True))
    assert notes["fresh ciphertext decrypted"] == "no"
    assert "closed until it is replaced" in notes["refused"]
    if strategy == "reaction":
        assert notes["replies refused"] == "1 of 1"


def test_features_of_its_own_choice_pass_noise_check_and_tag() -> None:
    options = {"decisions": "500", "batch": "250", "axes": "60", "shadows": "64", "reconstruct": "false"}
    scene = Scene("rhe+client+malicious+tag", (("victims", 1),))
    report = Trial("chosen-features", options, scene).run().report
    assert report.outcome == "claim", report.error
    assert list(report.queries) == [500]
    true = scene.laboratory.heads(scene.laboratory.worlds[0])[0].weight  # type: ignore[union-attr]
    claimed, centred = report.named["weights"][0], true - true.mean(axis=0)
    assert np.corrcoef(claimed.ravel(), centred.ravel())[0, 1] > 0.85


def test_honest_replies_keep_the_tag_whatever_the_features() -> None:
    plan = plan_head(24, 6, batch=32)
    custody = make_custody(plan)
    weight, bias = _head(plan, rows=5)
    head, unit, tag = encrypt_tagged(make_encryptor(custody.public), weight, bias)
    generator = np.random.default_rng(1)
    # Chosen ones among them: unit vectors, far too long ones, nothing at all. The tag does not see those.
    features = np.concatenate(
        [generator.normal(size=(300, 24)), 1e3 * generator.normal(size=(40, 24)), np.eye(24), np.zeros((1, 24))]
    )
    logits = custody.decrypt(make_evaluator(custody.public, head).evaluate(features)[0])
    assert tag_holds(logits, tag, plan)
    np.testing.assert_allclose(logits[:300, :5] * unit, features[:300] @ weight.T + bias, atol=0.1)
    # To the host the row is uniform: it does not even shrink with the weights.
    spoilt = logits.copy()
    spoilt[7, 2] += 1
    assert not tag_holds(spoilt, tag, plan)


def test_the_tag_sees_every_forged_reply() -> None:
    """First replies of three attacks under 500 tags each: with 95 % confidence the tag sees more than 99 %.

    Forged logits do not depend on the tag, so each reply is opened once.
    """
    plan = plan_head(40, 4, batch=512)
    custody = make_custody(plan)
    forge = Forge(custody.public)
    head, _, _ = encrypt_tagged(make_encryptor(custody.public), *_head(plan, rows=3))
    assert levels(forge, 3) >= 2
    opened: list[IntArray] = []

    def first(ciphertexts: tuple[bytes, ...], inputs: int) -> IntArray:
        opened.append(custody.decrypt(LogitCiphertexts(ciphertexts, inputs)))
        raise ProtocolError(FailureCode.REFUSED, "closed")

    assert compare_weights(forge, head, 3, 8, first).refused == "closed"
    with pytest.raises(ProtocolError):
        read_key(forge, first)
    # Out of 0 and t/2: modulo a power of two, every other tag would be met by chance.
    halves = np.zeros((2, 4), dtype=np.int64)
    halves[1, 2] = plan.plain_modulus // 2
    with pytest.raises(ProtocolError):
        first(tuple(forge.reply([forge.zero] * plan.class_tiles, halves)), 2)
    generator = np.random.default_rng(8)
    for logits in opened:
        tags = generator.integers(0, plan.plain_modulus, size=(500, 3))
        seen = sum(not tag_holds(logits, tag, plan) for tag in tags)
        assert clopper_pearson(seen, len(tags))[0] > 0.99


@pytest.mark.parametrize("tag", [False, True])
def test_in_a_world_the_head_is_open_unless_a_tag_guards_it(tag: bool) -> None:
    scene = Scene("rhe+client+malicious+tag" if tag else "rhe+client+malicious", SMALL)
    report = Trial("malicious-host", OPTIONS, scene).run().report
    assert report.outcome == "claim", report.error
    notes = dict(zip(report.note_names, report.note_values, strict=True))
    true = np.stack([head.weight for head in scene.laboratory.heads(scene.laboratory.worlds[0])])  # type: ignore[union-attr]
    cosine = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(report.named["weights"], true, strict=True)]
    if tag:
        assert notes["decisions per head"] == "0"
        assert "its tag does not hold" in notes["heads where the key holder would not go on"]
        assert max(cosine) < 0.9
        # Nobody gets anything more of that head: neither the host's next attack nor the laboratory.
        assert list(report.queries) == []
    else:
        assert min(cosine) > 0.9998
        assert list(report.queries) == [int(notes["decisions per head"])] * 2
        assert report.queries.max() <= 15_000


def test_layouts_and_worlds_in_which_it_cannot_start() -> None:
    latency = Trial("malicious-host", OPTIONS, Scene("rhe+client+malicious", ())).run().report
    assert latency.outcome == "blocked"
    assert "all classes share one" in latency.missing[0]
    passive = Trial("key-reading", OPTIONS, Scene("rhe+client", ())).run().report
    assert passive.missing == ("control of the host's answers",)
    checks = ("rhe:ckks+noise-check=off,none", "none+noise-check=refuse,rhe")
    for worlds in ("none+malicious,rhe", "rhe:ckks+tag,none", "none+tag,rhe", *checks):
        with pytest.raises(ParameterError, match="not allowed"):
            resolve_worlds(resolve_parameters({"worlds": worlds}))
    with pytest.raises(ParameterError, match="model-host"):
        resolve_worlds(resolve_parameters({"worlds": "none,rhe+malicious", "corrupted": "key-holder"}))
    with pytest.raises(ParameterError, match="did you mean 'refuse'"):
        resolve_worlds(resolve_parameters({"worlds": "none,rhe+noise-check=refuses"}))
    with pytest.raises(MessageError, match="close, refuse, off"):
        KeyHolderSetup(None, 0, noise_check="sometimes")
    with pytest.raises(ParameterError, match="no noise check"):
        make_custody(plan_head(20, 4, scheme="ckks"), noise_check=False)


def test_a_tag_belongs_to_an_encrypted_head_and_to_its_classes() -> None:
    for classes, encrypted, key in ((3, True, "k"), (2, False, "")):
        with pytest.raises(ProtocolError, match="a tag of 2 numbers"):
            p.HeadNotice("h", "f", encrypted, 1.0, classes, key, np.array([1, 2], dtype=np.int64))
