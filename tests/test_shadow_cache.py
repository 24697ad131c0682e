"""The cache of shadow heads: read again to the bit, refused where anything differs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rhe_parties.attacks.pools import SerialPool, ThreadPool
from rhe_parties.attacks.shadows.cache import CachedSource
from rhe_parties.attacks.shadows.factory import ShadowBlock, ShadowFactory
from rhe_parties.attacks.shadows.stream import BlockSource
from rhe_parties.errors import DataError, ParameterError
from rhe_parties.model.dp import DpMechanism
from tests.shadow_tools import PAPER, STRONG, factory, pool, same, two_of_one_class


class Unwilling(BlockSource[ShadowBlock]):
    """A factory's double that must not be asked for a block."""

    def __init__(self, double: ShadowFactory) -> None:
        self._double, self.heads_per_block = double, double.heads_per_block

    def provenance(self) -> dict[str, str]:
        return self._double.provenance()

    def block(self, index: int) -> ShadowBlock:
        raise AssertionError(f"block {index} should have come from the cache")


def test_cached_blocks_are_read_again_to_the_bit(tmp_path: Path) -> None:
    made = factory()
    first = CachedSource(made, ShadowBlock, tmp_path).take(70, SerialPool())
    again = CachedSource(Unwilling(made), ShadowBlock, tmp_path).take(70, ThreadPool(2))
    assert same(first, again)
    assert same(first, made.take(70, SerialPool()))
    assert len(list(tmp_path.glob("*/block-*.safetensors"))) == 3
    assert not list(tmp_path.glob("*/tmp*"))


OTHERS: dict[str, dict[str, Any]] = {
    "seed": {"seed": 4},
    "purpose": {"purpose": "other"},
    "block": {"block": 16},
    "recipe": {"recipe": replace(PAPER, mechanism=DpMechanism(1.0, 1.0))},
    "initial": {"initial": np.zeros((4, 20), np.float32)},
    "sets": {"sets": np.zeros((32, 8), np.int64)},
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_provenance_has_another_folder(tmp_path: Path, what: str) -> None:
    one, other = factory(), factory(**OTHERS[what])
    assert one.provenance()[what] != other.provenance()[what]
    assert CachedSource(one, ShadowBlock, tmp_path).key != CachedSource(other, ShadowBlock, tmp_path).key


def test_features_labels_and_recipe_are_in_the_provenance() -> None:
    features, labels = pool()
    base = ShadowFactory(features, labels, 4, 2, PAPER, 1).provenance()
    changed = features.copy()
    changed[0, 0] += np.float32(1e-6)
    turned = np.roll(labels, 1)
    for key, other in (
        ("features", ShadowFactory(changed, labels, 4, 2, PAPER, 1)),
        ("labels", ShadowFactory(features, turned, 4, 2, PAPER, 1)),
        ("recipe", ShadowFactory(features, labels, 4, 2, STRONG, 1)),
        ("sets", ShadowFactory(features, labels, 4, 1, PAPER, 1)),
    ):
        assert {name for name in base if base[name] != other.provenance()[name]} == {key}


def test_what_was_changed_or_damaged_is_refused(tmp_path: Path) -> None:
    made = factory()
    cached = CachedSource(made, ShadowBlock, tmp_path)
    cached.take(64, SerialPool())
    first, second = sorted(cached.folder.glob("block-*.safetensors"))
    data = first.read_bytes()
    for damaged in (data[:-1] + bytes([data[-1] ^ 1]), data[: len(data) // 2], b"", b"no safetensors at all"):
        first.write_bytes(damaged)
        with pytest.raises(DataError, match="are damaged"):
            cached.block(0)
    first.write_bytes(second.read_bytes())
    with pytest.raises(DataError, match="another factory or block"):
        cached.block(0)
    foreign = CachedSource(factory(9), ShadowBlock, tmp_path)
    foreign.block(0)
    first.write_bytes((foreign.folder / first.name).read_bytes())
    with pytest.raises(DataError, match="another factory or block"):
        cached.block(0)
    manifest = cached.folder / "provenance.json"
    stored = json.loads(manifest.read_text())
    for text, words in (
        (json.dumps(stored | {"seed": "8"}), "manifest differs in seed"),
        (json.dumps(stored), "written differently"),
        ("{", "manifest is damaged"),
        ("[]", "manifest is damaged"),
    ):
        manifest.write_text(text)
        with pytest.raises(DataError, match=words):
            CachedSource(made, ShadowBlock, tmp_path)


def test_a_cache_needs_a_folder_and_a_provenance(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be used"):
        CachedSource(factory(), ShadowBlock, tmp_path / "file")
    with pytest.raises(ParameterError, match="come from a function"):
        CachedSource(factory(sets=two_of_one_class), ShadowBlock, tmp_path)
