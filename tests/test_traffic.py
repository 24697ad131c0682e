"""Traffic analysis: it reads sizes and times that depend on weights, and finds none that do under encryption."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from rhe_parties.attacks.base import AttackContext
from rhe_parties.attacks.side_channel import Estimate, Evidence
from rhe_parties.attacks.span.shadows import balanced_sets
from rhe_parties.attacks.traffic_analysis import Channel, Effort, Meter, TrafficAnalysis
from rhe_parties.attacks.white_box import Heads
from rhe_parties.he.quantise import quantise_head
from rhe_parties.he.scheme import HeadCiphertexts, LogitCiphertexts, PublicMaterial
from rhe_parties.model.head import train_heads
from rhe_parties.threat.view import build_view
from rhe_parties.transport.local import LocalTransport
from rhe_parties.types import AnyArray, FloatArray
from tests import sealed_heads as sealed
from tests.laboratory import play, small_laboratory
from tests.sealed_heads import digits, material

SHADOWS = 512


@functools.cache
def main_direction() -> tuple[FloatArray, FloatArray]:
    """Mean head and the direction in which heads vary most, both flat."""
    own = digits().shadow_weight.reshape(len(digits().shadow_weight), -1)
    return own.mean(axis=0), np.linalg.svd(own - own.mean(axis=0), full_matrices=False)[2][0]


class SqueezedEncryptor:
    """Packs every four weights into as few bytes as they need, then hides the bytes: what shows is their number.

    Compression before encryption, as in Kelsey 2002; the packing is that of protobuf's int64, ten bytes if negative.
    """

    def __init__(self, public: PublicMaterial) -> None:
        self.public = public

    def encrypt(self, weight: AnyArray, bias: AnyArray, hidden: object = ()) -> tuple[HeadCiphertexts, float]:
        head = quantise_head(self.public.plan, weight, bias)
        blocks = head.weights[:, :-1].reshape(-1, 4)
        sizes = [sum(10 if number < 0 else -(-int(number).bit_length() // 7) for number in block) for block in blocks]
        return HeadCiphertexts(tuple(map(bytes, sizes)), self.public.fingerprint), head.unit


class SteadyEncryptor(SqueezedEncryptor):
    """Sizes are alike; what stands in the ciphertext is where the head lies along the direction that varies most."""

    def encrypt(self, weight: AnyArray, bias: AnyArray, hidden: object = ()) -> tuple[HeadCiphertexts, float]:
        centre, direction = main_direction()
        place = float((weight.ravel() - centre) @ direction)
        return HeadCiphertexts((np.float64(place).tobytes(),), self.public.fingerprint), 1.0


class HastyEvaluator:
    """Its replies are alike; the time that it takes depends on what stands in the ciphertext."""

    now = 0.0

    def __init__(self, public: PublicMaterial, head: HeadCiphertexts) -> None:
        self.place = float(np.frombuffer(head.ciphertexts[0])[0]) if len(head.ciphertexts) == 1 else 0.0

    def evaluate(self, features: AnyArray) -> tuple[LogitCiphertexts, int]:
        type(self).now += 1e-3 * float(np.exp(self.place))
        return LogitCiphertexts((bytes(100),), len(features)), 0


LEAKS = {
    "sizes": Channel(SqueezedEncryptor, HastyEvaluator, lambda: 0.0),
    "times": Channel(SteadyEncryptor, HastyEvaluator, lambda: HastyEvaluator.now),
}


@functools.cache
def shadows(count: int) -> Heads:
    prior = digits().prior
    sets = balanced_sets(prior.auxiliary_labels, prior.classes, 1, count, 8)
    labels = prior.auxiliary_labels[sets]
    weight, bias = train_heads(prior.auxiliary_features[sets], labels, prior.classes, prior.recipe, range(count))
    return Heads(tuple(map(str, range(count))), weight, bias)


def estimate(channel: Channel, count: int, scheme: str = "bfv", victims: int = sealed.VICTIMS) -> Estimate:
    own, public = digits(), material(scheme)
    encryptor = channel.encryptor(public)
    heads = [encryptor.encrypt(w, b)[0] for w, b in zip(own.weight[:victims], own.bias[:victims], strict=True)]
    names = own.head_ids[:victims]
    view = sealed.host_view(public, heads, names)
    strategy = TrafficAnalysis()
    strategy.channel = channel
    evidence = Evidence(view, public, names, tuple(heads), shadows(count))
    return strategy.estimate(evidence, own.prior, AttackContext(seed=4, victims=names))


def agreement(heads: Heads) -> float:
    """Correlation of estimated and true heads of the victims, along the direction in which heads vary most."""
    centre, direction = main_direction()
    places = [(weight.reshape(len(weight), -1) - centre) @ direction for weight in (heads.weight, digits().weight)]
    return float(np.corrcoef(*places)[0, 1])


@pytest.mark.parametrize(("leak", "skill"), [("sizes", 0.1), ("times", 0.02)])
def test_leaky_channels_are_read(leak: str, skill: float) -> None:
    found = estimate(LEAKS[leak], SHADOWS)
    assert float(found.notes["share of held-out heads' variance explained"]) > skill
    assert agreement(found.heads) > 0.8
    # Random heads through the same leak say nothing of the victims.
    assert abs(agreement(found.null)) < 0.5
    assert found.heads.error_variance < np.var(shadows(SHADOWS).weight, axis=0).mean()


@pytest.mark.parametrize(("scheme", "victims", "count"), [("bfv", sealed.VICTIMS, 64), ("plain", 4, 64)])
def test_encrypted_traffic_tells_nothing(scheme: str, victims: int, count: int) -> None:
    found = estimate(Channel(), count, scheme, victims)
    assert found.notes["share of held-out heads' variance explained"] == "0.000"
    np.testing.assert_array_equal(found.heads.weight, np.broadcast_to(found.heads.weight[:1], found.heads.weight.shape))
    np.testing.assert_array_equal(found.heads.weight, found.null.weight[:victims])
    assert found.notes["own heads encrypted under the same key"] == str(count)


def test_what_concerns_a_head_is_measured() -> None:
    """A head whose traffic differs has other features than the rest; one in its place has the same counts."""
    lab = small_laboratory()
    view = build_view(play(lab, LocalTransport(), 1)[0], lab.threat_model)
    seen, public = view.encrypted_heads(), view.public_material()
    assert public is not None
    heads = tuple(HeadCiphertexts(head.ciphertexts, head.key_fingerprint) for head in seen.values())
    own = digits()
    evidence = Evidence(view, public, tuple(seen), heads, shadows(12))
    meter = Meter(Channel(), evidence, own.prior, Effort(probes=3, repeats=1, most_shadows=12))
    victim = np.array(meter.seen(0))
    replaced = meter.own(shadows(12), lambda _done: None)
    tiles = len(heads[0].ciphertexts)
    np.testing.assert_array_equal(victim[:tiles], [len(item) for item in heads[0].ciphertexts])
    # Number of envelopes of each kind: head, installed, request, response.
    np.testing.assert_array_equal(victim[tiles : tiles + 8 : 2], [1, 1, 1, 1])
    np.testing.assert_array_equal(replaced[:, tiles : tiles + 8 : 2], np.ones((12, 4)))
    # Responses and requests are as long whatever the head; the message with the head is as long as its ciphertexts.
    np.testing.assert_array_equal(replaced[::2, tiles + 5], np.full(6, victim[tiles + 5]))
    np.testing.assert_array_equal(replaced[::2, tiles + 7], np.full(6, victim[tiles + 7]))
    np.testing.assert_array_equal(
        replaced[::2, tiles + 1] - replaced[::2, :tiles].sum(axis=1),
        np.full(6, victim[tiles + 1] - victim[:tiles].sum()),
    )
