"""Blocks of shadow heads: what no pool changes, sets and starts of one's own, pools, bounded memory."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rhe_parties.attacks.pools import SerialPool, ThreadPool
from rhe_parties.attacks.shadows.factory import ShadowFactory
from rhe_parties.attacks.shadows.sets import BalancedSets
from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.model.dp import DpMechanism
from rhe_parties.model.dual import train_many
from rhe_parties.rng import numpy_stream
from rhe_parties.transport.ray_tasks import RayPool
from tests.shadow_tools import PAPER, factory, pool, same, two_of_one_class


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({}, id="plain"),
        pytest.param({"mechanism": DpMechanism(1.0, 1.0, 0.5)}, id="dp", marks=pytest.mark.slow),
        pytest.param({"relax": 0.5}, id="relaxed", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("workers", ["threads", pytest.param("ray", marks=pytest.mark.slow)])
def test_heads_do_not_depend_on_the_pool(more: dict[str, Any], workers: str, request: pytest.FixtureRequest) -> None:
    recipe = replace(PAPER, **more)
    made = factory(recipe=recipe)
    serial = made.take(130, SerialPool())
    assert serial.weight.shape == (130, 4, 20)
    if workers == "ray":
        request.getfixturevalue("ray_session")
    other = RayPool(2) if workers == "ray" else ThreadPool(2)
    assert same(serial, made.take(130, other))
    assert same(serial, (np.concatenate(parts)[:130] for parts in zip(*(made.block(i) for i in range(5)), strict=True)))
    assert not same(serial[1:], factory(4, recipe=recipe).take(130, SerialPool())[1:])
    assert not same(serial[1:], factory(purpose="other", recipe=recipe).take(130, SerialPool())[1:])


def test_blocks_are_trained_on_their_sets() -> None:
    features, labels = pool()
    made = factory()
    block = made.block(1)
    again = train_many(features, labels, block.sets, 4, PAPER, 0, initial=np.zeros((32, 4, 20), np.float32))
    # The starts are small, so that heads are near those of zero starts on their own sets, and far from other sets'.
    own = np.linalg.norm(block.weight - again[0], axis=(1, 2))
    others = np.linalg.norm(block.weight - np.roll(again[0], 1, axis=0), axis=(1, 2))
    assert own.max() < 0.5 * others.min()


def test_sets_are_balanced_and_use_every_image_before_one_serves_twice() -> None:
    labels = np.repeat(np.arange(3), (7, 10, 30)).astype(np.int64)
    rule = BalancedSets(labels, 3, 2, 5, "t", 4)
    sets = np.concatenate([rule(i) for i in range(30)])
    assert (labels[sets] == np.repeat(np.arange(3), 2)).all()
    for label, size in ((0, 7), (1, 10), (2, 30)):
        column = sets[:, 2 * label : 2 * label + 2]
        turns = size // 2
        for start in range(0, len(sets) - turns, turns):
            assert len(np.unique(column[start : start + turns])) == 2 * turns
        assert len(np.unique(column)) == size
    assert same([rule(17)], [BalancedSets(labels, 3, 2, 5, "t", 4)(17)])
    assert same([rule(17)], [pickle.loads(pickle.dumps(rule))(17)])
    assert not same([rule(17)], [BalancedSets(labels, 3, 2, 6, "t", 4)(17)])


def test_sets_may_be_given() -> None:
    sets = numpy_stream(0, "given").integers(0, 60, (50, 6))
    made = factory(sets=sets)
    block = made.take(50, ThreadPool(2))
    np.testing.assert_array_equal(block.sets, sets)
    with pytest.raises(DataError, match="51 shadow heads are wanted, but only 50"):
        made.take(51, SerialPool())
    called = factory(sets=two_of_one_class)
    assert same(called.take(70, ThreadPool(2)), called.take(70, SerialPool()))
    np.testing.assert_array_equal(called.block(1).sets, two_of_one_class(1))
    with pytest.raises(DataError, match="given sets"):
        factory(sets=sets[:0])


def test_the_start_may_be_known() -> None:
    start = numpy_stream(0, "start").normal(size=(4, 20)).astype(np.float32)
    made = factory(initial=start)
    block = made.block(0)
    features, labels = pool()
    again = train_many(features, labels, block.sets, 4, PAPER, 99, initial=np.tile(start, (32, 1, 1)))
    assert same(block[1:], again)
    with pytest.raises(NumericError, match="initial weights"):
        factory(initial=start[:3])


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"features": np.full((60, 20), np.nan, np.float32)}, NumericError, "NaN"),
        ({"features": np.zeros((59, 20), np.float32)}, NumericError, "features"),
        ({"images_per_class": 0}, ParameterError, "images_per_class = 0"),
        ({"images_per_class": 16}, DataError, "class 0 has 15 auxiliary images, 16"),
        ({"classes": 5}, DataError, "class 4 has 0"),
        ({"classes": 3}, DataError, "label 3"),
        ({"block": 0}, ParameterError, "block = 0"),
    ],
)
def test_a_factory_that_cannot_work_is_refused(given: dict[str, Any], error: type[Exception], words: str) -> None:
    features, labels = pool()
    arguments = {
        "features": features, "labels": labels, "classes": 4, "images_per_class": 2, "recipe": PAPER, "seed": 1,
    }  # fmt: skip
    with pytest.raises(error, match=words):
        ShadowFactory(**(arguments | given))
    with pytest.raises(ParameterError, match="shadow heads = 0"):
        factory().stream(0, SerialPool())
    with pytest.raises(ParameterError, match="workers = 0"):
        ThreadPool(0)


def test_progress_tells_rate_and_time_left() -> None:
    told: list[tuple[float, str]] = []
    for _ in factory().stream(80, SerialPool(), lambda share, text: told.append((share, text))):
        pass
    assert [share for share, _ in told] == [0.4, 0.8, 1.0]
    assert all("heads/s, " in text and text.endswith(" left") for _, text in told)


# --- pools --------------------------------------------------------------------------------------------------------


class Counted:
    """Pieces that say how many have been asked for."""

    def __init__(self, total: int) -> None:
        self.asked, self._total = 0, total

    def __iter__(self) -> Iterator[int]:
        for piece in range(self._total):
            self.asked = piece + 1
            yield piece


def _square(piece: int) -> int:
    return piece * piece


def _fail_at_seven(piece: int) -> int:
    if piece == 7:
        raise ParameterError("piece = 7 is not allowed")
    return piece


@pytest.mark.parametrize("make", [lambda: ThreadPool(2), lambda: RayPool(2)], ids=["threads", "ray"])
def test_a_stream_runs_ahead_by_a_bounded_number_of_pieces(ray_session: None, make: Any) -> None:
    pieces = Counted(60)
    results = []
    for taken, value in enumerate(make().stream(_square, pieces), 1):
        results.append(value)
        assert pieces.asked <= taken + 4
    assert results == [piece * piece for piece in range(60)]
    endless = Counted(10**9)  # a consumer may stop: nothing more is asked for
    for _, _ in zip(range(3), make().stream(_square, endless), strict=False):
        pass
    assert endless.asked <= 8


@pytest.mark.parametrize(
    "make", [SerialPool, lambda: ThreadPool(2), lambda: RayPool(2)], ids=["serial", "threads", "ray"]
)
def test_an_exception_comes_where_its_result_would_have_come(ray_session: None, make: Any) -> None:
    results = make().stream(_fail_at_seven, range(20))
    assert [next(results) for _ in range(7)] == list(range(7))
    with pytest.raises(ParameterError, match=r"^piece = 7 is not allowed$"):
        next(results)
    with pytest.raises(ParameterError, match=r"^piece = 7 is not allowed$"):
        make().map(_fail_at_seven, range(20))


class DiesOnce:
    """Kills its own worker at one piece, the first time it gets there."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __call__(self, piece: int) -> int:
        if piece == 3 and not self._marker.exists():
            self._marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return piece


def test_a_killed_worker_does_no_harm(ray_session: None, tmp_path: Path) -> None:
    assert list(RayPool(2).stream(DiesOnce(tmp_path / "died"), range(8))) == list(range(8))
    assert (tmp_path / "died").exists()


def test_threads_of_a_pool_work_side_by_side() -> None:
    meeting = threading.Barrier(2, timeout=20)  # breaks unless two pieces are under way at once
    assert ThreadPool(2).map(lambda piece: (meeting.wait(), piece)[1], range(4)) == [0, 1, 2, 3]
