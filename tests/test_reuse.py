"""Reuse of randomness: what is found in ciphertexts with a flaw, what is read from them, and nothing in honest ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rhe_parties.attacks.base import AttackContext, Claim
from rhe_parties.attacks.ciphertext_reuse import CiphertextReuse
from rhe_parties.attacks.reuse.findings import Relation, UInt64Array, examine
from rhe_parties.attacks.reuse.recover import Pile, read_pile, recover_heads
from rhe_parties.attacks.white_box import Heads
from rhe_parties.errors import NumericError, ParameterError, SchemeError
from rhe_parties.he.scheme import HeadCiphertexts, PublicMaterial
from tests import sealed_heads as sealed
from tests.sealed_heads import Encrypt, digits, material

SHADOWS = 96


def shadows() -> Heads:
    own = digits()
    return Heads(tuple(map(str, range(len(own.shadow_weight)))), own.shadow_weight, own.shadow_bias)


def pile_of(encrypt: Encrypt, scheme: str = "bfv", victims: int = sealed.VICTIMS) -> Pile:
    public, own = material(scheme), digits()
    return read_pile(public, encrypt(public, own.weight[:victims], own.bias[:victims]))


def error(pile: Pile) -> tuple[float, float, float]:
    """Mean squared error of what is recovered, what the attack says of it, and that of the mean head."""
    own, count = digits(), len(pile.residues)
    found = recover_heads(pile, own.head_ids[:count], shadows())
    truth = own.weight[:count]
    blind = np.square(own.shadow_weight.mean(axis=0) - truth).mean()
    return float(np.square(found.heads.weight - truth).mean()), found.heads.error_variance, float(blind)


def residues(pile: Pile) -> UInt64Array:
    return pile.residues.reshape(-1, *pile.residues.shape[2:]).copy()


def turned(row: UInt64Array, shift: int, prime: int) -> UInt64Array:
    """t^shift·row by the definition: what goes over the end comes back with a minus."""
    out = np.zeros_like(row)
    for place, value in enumerate(row.tolist()):
        wraps, where = divmod(place + shift, len(row))
        out[where] = (prime - value) % prime if wraps % 2 else value
    return out


@pytest.mark.parametrize(("scheme", "victims"), [("bfv", sealed.VICTIMS), ("ckks", 2)])
def test_honest_ciphertexts_show_nothing(scheme: str, victims: int) -> None:
    pile = pile_of(sealed.honest, scheme, victims)
    found = examine(pile.data, residues(pile), pile.prime)
    assert found.pairs == len(pile.data) * (len(pile.data) - 1) // 2
    assert (found.equal, found.shared, found.related, found.coincidences) == (0, 0, (), 0)
    assert not found.transparent.any()
    assert found.uniformity > 1e-6
    blind = recover_heads(pile, digits().head_ids[:victims], shadows())
    assert blind.share == 0
    assert (blind.heads.weight == blind.heads.weight[:1]).all()
    assert blind.heads.error_variance == pytest.approx(np.var(digits().shadow_weight, axis=0).mean(), rel=0.1)


def test_a_shared_mask_gives_every_difference_away() -> None:
    pile = pile_of(sealed.on_one_mask)
    tiles = pile.residues.shape[1]
    found = examine(pile.data, residues(pile), pile.prime)
    assert found.shared == tiles * sealed.VICTIMS * (sealed.VICTIMS - 1) // 2
    assert found.equal == 0
    wrong, stated, blind = error(pile)
    assert wrong < 0.1 * blind
    assert 0.5 < wrong / stated < 2
    # Two heads: each is known but for half of their sum.
    wrong, stated, blind = error(pile_of(sealed.on_one_mask, victims=2))
    assert 0.3 < wrong / blind < 0.7
    assert 0.5 < wrong / stated < 2


def test_differences_on_a_shared_mask_are_exact() -> None:
    own = digits()
    found = recover_heads(pile_of(sealed.on_one_mask), own.head_ids, shadows()).heads.weight
    read, truth = found - found.mean(axis=0), own.weight - own.weight.mean(axis=0)
    # What is left is the unknown unit of some heads, an eighth of an octave off.
    assert np.median(np.abs(read - truth)) < 0.02 * np.abs(truth).mean()


@pytest.mark.parametrize(("encrypt", "scheme"), [(sealed.not_at_all, "bfv"), (sealed.honest, "plain")])
def test_what_is_not_encrypted_is_read(encrypt: Encrypt, scheme: str) -> None:
    pile = pile_of(encrypt, scheme)
    assert examine(pile.data, residues(pile), pile.prime).transparent.all()
    wrong, stated, blind = error(pile)
    assert wrong < 1e-4 * blind
    assert stated == 0


def test_one_flawed_head_among_honest_ones() -> None:
    own, public = digits(), material()
    heads = sealed.honest(public, own.weight, own.bias)
    heads[5:6] = sealed.not_at_all(public, own.weight[5:6], own.bias[5:6])
    heads[2:4] = sealed.on_one_mask(public, own.weight[2:4], own.bias[2:4])
    found = recover_heads(read_pile(public, heads), own.head_ids, shadows())
    wrong = np.square(found.heads.weight - own.weight).mean(axis=(1, 2))
    mean = np.square(own.shadow_weight.mean(axis=0) - own.weight).mean(axis=(1, 2))
    assert found.share == pytest.approx(3 / sealed.VICTIMS)
    assert wrong[5] < 1e-4 * mean[5]
    assert (wrong[2:4] < 0.75 * mean[2:4]).all()
    others = [0, 1, 4, *range(6, sealed.VICTIMS)]
    np.testing.assert_allclose(wrong[others], mean[others], rtol=1e-4)


def test_equal_bytes_are_counted() -> None:
    pile = pile_of(sealed.honest, victims=3)
    data, values = [*pile.data, pile.data[1]], np.concatenate([residues(pile), residues(pile)[1:2]])
    found = examine(data, values, pile.prime)
    assert (found.equal, found.shared, found.coincidences) == (1, 1, 0)


@pytest.mark.parametrize(("sign", "shift"), [(1, 700), (-1, 0), (-1, 2047), (1, 1)])
def test_turned_masks_are_found(sign: int, shift: int) -> None:
    pile = pile_of(sealed.honest, victims=3)
    values = residues(pile)
    row = turned(values[1, 1], shift, pile.prime)
    values[4, 1] = row if sign == 1 else (np.uint64(pile.prime) - row) % np.uint64(pile.prime)
    found = examine(pile.data, values, pile.prime)
    assert found.related == (Relation(1, 4, sign, shift),)
    assert found.shared == 0


def test_structure_beyond_masks_is_found() -> None:
    pile = pile_of(sealed.honest)
    copied = residues(pile)
    copied[7, 0, 100:110] = copied[3, 0, 500:510]
    found = examine(pile.data, copied, pile.prime)
    assert (found.shared, found.coincidences) == (0, 10)
    assert found.coincidence_chance < 1e-30
    short = residues(pile) % np.uint64(pile.prime - pile.prime // 50)
    assert examine(pile.data, short, pile.prime).uniformity < 1e-9
    even = residues(pile) & ~np.uint64(1)
    assert examine(pile.data, even, pile.prime).uniformity < 1e-9


def test_findings_refuse_what_is_no_pile_of_ciphertexts() -> None:
    with pytest.raises(NumericError, match=r"take residues \[1, 2, N\]"):
        examine([b"x"], np.zeros((1, 3, 8), np.uint64), 97)
    with pytest.raises(NumericError, match="97 is not below"):
        examine([b"x"], np.full((1, 2, 8), 97, np.uint64), 97)
    with pytest.raises(SchemeError):
        read_pile(material(), [HeadCiphertexts((b"", b""), material().fingerprint)])


def attack(public: PublicMaterial, heads: list[HeadCiphertexts], **options: int) -> Claim:
    own = digits()
    quick = CiphertextReuse.Options(decoder_steps=20, shadow_heads=40, refine_steps=0, shadows=SHADOWS)
    view = sealed.host_view(public, heads, own.head_ids)
    context = AttackContext(seed=3, victims=own.head_ids, memory=MEMORY)
    return CiphertextReuse(replace(quick, **options)).attack(view, own.prior, context)


MEMORY: dict[str, object] = {}


def identified(claim: Claim) -> float:
    """Share of images whose nearest candidate of their class, by the adversary's own distance, is the true one."""
    private = digits().private
    assert claim.features is not None
    assert claim.whitener is not None
    hits = []
    for place in range(private.shape[1]):
        away = (claim.features[:, None, place] - private[None, :, place]) @ claim.whitener.T
        hits.append(np.square(away).sum(-1).argmin(1) == np.arange(len(private)))
    return float(np.mean(hits))


def test_strategy_reconstructs_from_a_shared_mask_and_from_nothing_else() -> None:
    own, public = digits(), material()
    flawed = attack(public, sealed.on_one_mask(public, own.weight, own.bias))
    assert identified(flawed) > 0.9
    assert flawed.notes["share of weights read from ciphertexts"] == "1.000"
    assert flawed.null is not None
    assert identified(flawed.null) == pytest.approx(1 / sealed.VICTIMS)
    sound = attack(public, sealed.honest(public, own.weight, own.bias))
    assert identified(sound) == pytest.approx(1 / sealed.VICTIMS)
    assert sound.notes["pairs that share c1"] == "0 of 1128 pairs"
    assert sound.images is not None
    assert sound.null is not None
    np.testing.assert_array_equal(sound.images, sound.null.images)


def test_too_few_shadows_are_refused() -> None:
    own, public = digits(), material()
    with pytest.raises(ParameterError, match=r"ciphertext-reuse\.shadows=3"):
        attack(public, sealed.honest(public, own.weight, own.bias), shadows=3)
