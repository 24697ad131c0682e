"""The backbone's last block, trained along with a head: the algebra, the worlds, the messages, the host."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rhe_parties.errors import FailureCode, MessageError, NumericError, ParameterError
from rhe_parties.messages import Envelope
from rhe_parties.messages import payloads as p
from rhe_parties.messages.recipes import RecipeSpec
from rhe_parties.model.adaptation import FACTORS, WHOLE, Adaptation
from rhe_parties.model.backbone import load_backbone
from rhe_parties.model.head import LinearHead, Recipe, initial_weights
from rhe_parties.model.last_block import (
    adapted_backbone,
    initial_factors,
    last_layer,
    train_adapted,
    trunk_of,
)
from rhe_parties.runner.parameters import resolve_parameters
from rhe_parties.runner.plan import prepare
from rhe_parties.runner.world import resolve_worlds
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER, MODEL_HOST
from rhe_parties.threat.view import Observation, build_view
from rhe_parties.transport.local import LocalTransport
from tests.laboratory import play, small_laboratory
from tests.trio import seat_trio

RECIPE = Recipe.paper("strokenet", 1)
WORLDS = "none,rhe,none+fine-tuned,rhe+fine-tuned,rhe+lora=3"


def _lab() -> Any:
    return small_laboratory(WORLDS)


def _training_set() -> tuple[np.ndarray, np.ndarray]:
    lab = _lab()
    rows = lab.truth.sets[0]
    return trunk_of(lab.backbone).extract(lab.private_images[rows]), lab.truth.labels[rows]


@pytest.mark.parametrize("rank", [0, 3])
def test_training_is_ordinary_gradient_descent(rank: int) -> None:
    inputs, labels = _training_set()
    layer = last_layer(_lab().backbone)
    recipe = dataclasses.replace(RECIPE, weight_decay=1e-2, adaptation=Adaptation(0.2, rank))
    (found,) = train_adapted(layer, inputs[None], labels[None], 10, recipe, [5])

    start = torch.from_numpy(initial_weights([5], 10, 256, recipe.init_std)[0]).double().requires_grad_()
    bias = torch.zeros(10, dtype=torch.float64, requires_grad=True)
    if rank:
        block = [initial_factors([5], rank, 256)[0].clone(), torch.zeros((256, rank), dtype=torch.float64)]
    else:
        block = [layer.weight.clone(), layer.bias.clone()]
    for tensor in block:
        tensor.requires_grad_()
    optimiser = torch.optim.SGD(
        [{"params": [start, bias], "lr": recipe.learning_rate}, {"params": block, "lr": 0.2}], weight_decay=1e-2
    )
    x, y = torch.from_numpy(inputs).double(), torch.from_numpy(labels)
    for _ in range(recipe.epochs):
        weight, offset = (layer.weight + block[1] @ block[0], layer.bias) if rank else block
        features = layer.gain * (x @ weight.T + offset).relu()
        optimiser.zero_grad()
        F.cross_entropy(features @ start.T + bias, y).backward()
        optimiser.step()
    assert np.allclose(found.head.weight, start.detach(), atol=1e-6)
    assert np.allclose(found.head.bias, bias.detach(), atol=1e-6)
    for name, tensor in zip(FACTORS if rank else WHOLE, block, strict=True):
        assert np.allclose(found.block[name], tensor.detach(), atol=1e-6), name
        assert found.block[name].dtype == np.float32


def test_adapted_backbone_is_trunk_and_layer() -> None:
    lab = _lab()
    images = lab.private_images[:5]
    inputs, layer = trunk_of(lab.backbone).extract(images).astype(np.float64), last_layer(lab.backbone)
    rng = np.random.default_rng(0)
    down, up = (rng.normal(size=shape).astype(np.float32) * 0.1 for shape in ((2, 256), (256, 2)))
    weight = layer.weight.numpy() + up.astype(np.float64) @ down
    expected = layer.gain * np.maximum(inputs @ weight.T + layer.bias.numpy(), 0)
    by_factors = adapted_backbone(lab.backbone, {"down": down, "up": up})
    whole = adapted_backbone(lab.backbone, {"weight": weight.astype(np.float32), "bias": layer.bias.float().numpy()})
    assert np.allclose(by_factors.extract(images), expected, atol=1e-3)
    assert np.array_equal(by_factors.extract(images), whole.extract(images))
    assert by_factors.fingerprint == whole.fingerprint != lab.backbone.fingerprint
    unchanged = {"weight": layer.weight.float().numpy(), "bias": layer.bias.float().numpy()}
    assert adapted_backbone(lab.backbone, unchanged).fingerprint == lab.backbone.fingerprint


def test_blocks_that_do_not_fit_are_refused() -> None:
    backbone = _lab().backbone
    wide = np.zeros((256, 255), np.float32)
    for block in ({"weight": wide, "bias": wide[:, 0]}, {"down": wide, "up": wide}, {"weight": wide}):
        with pytest.raises(NumericError, match=r"last block of strokenet is \[256, 256\]"):
            adapted_backbone(backbone, block)
    huge = np.full((256, 1), 1e38, np.float32)
    with pytest.raises(NumericError, match="not finite"):
        adapted_backbone(backbone, {"down": huge.T, "up": huge})
    with pytest.raises(ParameterError, match=r"'resnet18' is not allowed .*allowed: strokenet"):
        trunk_of(load_backbone("resnet18", "random:1"))


def test_training_says_when_it_diverges() -> None:
    inputs, labels = _training_set()
    recipe = dataclasses.replace(RECIPE, adaptation=Adaptation(1e60))
    with pytest.raises(NumericError, match=r"diverged with learning rates 0\.01 and 1e\+60"):
        train_adapted(last_layer(_lab().backbone), inputs[None], labels[None], 10, recipe, [5])
    with pytest.raises(ParameterError, match="head alone"):
        train_adapted(last_layer(_lab().backbone), inputs[None], labels[None], 10, RECIPE, [5])


def test_recipes_travel_with_their_adaptation() -> None:
    for adaptation in (None, Adaptation(0.25), Adaptation(0.5, 7)):
        recipe = dataclasses.replace(RECIPE, adaptation=adaptation)
        assert RecipeSpec.of(recipe).linear() == recipe
    with pytest.raises(ParameterError, match="learning_rate = 0"):
        Adaptation(0.0)
    with pytest.raises(ParameterError, match="rank = -1"):
        Adaptation(0.1, -1)
    with pytest.raises(ParameterError, match="RelaxLoss train heads alone"):
        dataclasses.replace(RECIPE, relax=0.5, adaptation=Adaptation(0.1))


_ONES = np.ones((3, 4), np.float32)


@pytest.mark.parametrize(
    ("names", "tensors", "error", "words"),
    [
        (WHOLE, (np.full((3, 4), np.nan, np.float32), _ONES[:, 0]), NumericError, "NaN"),
        (WHOLE, (_ONES, _ONES[0]), NumericError, "do not fit together"),
        (FACTORS, (_ONES, _ONES), NumericError, "do not fit together"),
        (FACTORS, (_ONES.astype(np.float64), _ONES.T), NumericError, "expected float32"),
        (FACTORS, (np.empty((0, 4), np.float32), np.empty((3, 0), np.float32)), NumericError, "do not fit"),
        (WHOLE, (_ONES,), MessageError, "1 tensors named 'weight, bias'"),
        (("weight", "secret"), (_ONES, _ONES[:, 0]), MessageError, "known: weight, bias; down, up"),
    ],
)
def test_messages_hold_whole_and_finite_blocks(names: Any, tensors: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        p.AdaptedBlock(names, tensors)


def test_names_of_worlds() -> None:
    def adaptation(world: str) -> Adaptation | None:
        return resolve_worlds(resolve_parameters({"worlds": f"none,{world}"}))[1].adaptation

    assert adaptation("rhe") is None
    assert adaptation("rhe+fine-tuned") == Adaptation.whole()
    assert adaptation("rhe+tag+lora=5") == Adaptation.factors(5)
    assert adaptation("init-noise@std=0.01+lora") == Adaptation.factors(8)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"worlds": "none,rhe+lora=0"}, r"\+lora=0 is not allowed \(allowed: \+fine-tuned, \+lora, \+lora=1 to 128\)"),
        ({"worlds": "none,rhe+lora=many"}, r"\+lora=many is not allowed"),
        ({"worlds": "none,rhe+fine-tuned=2"}, r"\+fine-tuned=2 is not allowed"),
        ({"worlds": "none,rhe+fine-tune"}, "did you mean 'fine-tuned'"),
        ({"worlds": "none,rhe+lora", "backbone": "resnet18"}, r"backbone='resnet18'.*\(allowed: strokenet\)"),
        ({"worlds": "none,none+lora", "hidden": 8, "labels": "parity"}, "not allowed with hidden=8"),
        ({"worlds": "none,dp-sgd+fine-tuned"}, "defence 'dp-sgd' trains heads alone"),
    ],
)
def test_worlds_that_cannot_be_are_refused_in_one_line(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words) as caught:
        prepare(resolve_parameters(given))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("index", [2, 3, 4])
def test_the_host_decides_behind_the_adapted_block(index: int) -> None:
    lab = _lab()
    world = lab.worlds[index]
    transcript, decisions = play(lab, LocalTransport(), index)
    features = lab.evaluation_features_in(world)
    assert not np.allclose(features, lab.evaluation_features, rtol=1e-4)
    assert any(name == "last block" for name, _ in world.facts)
    for decision, head, seen in zip(decisions, lab.heads(world), features, strict=True):
        assert list(decision.classes) == list(head.logits(seen).argmax(axis=1))
    view = build_view(transcript, lab.threat_model)
    assert Observation.ADAPTED_BLOCK in view.holds()
    assert set(view.adapted_blocks()) == set(lab.head_ids)


def test_frozen_backbones_show_no_block() -> None:
    lab = _lab()
    for index in (0, 1):
        view = build_view(seat_trio(lab, index)[2], lab.threat_model)
        assert Observation.ADAPTED_BLOCK not in view.holds()


def test_the_host_refuses_bad_blocks_and_keeps_what_it_has() -> None:
    lab = _lab()
    host = seat_trio(lab, 2)[0]._parties[MODEL_HOST]
    head = lab.heads(lab.worlds[2])[0]
    images = lab.dataset.images[lab.evaluation[0]]

    def tell(sender: str, payload: p.Payload) -> Any:
        (reply,) = host.handle(Envelope(lab.run_id, sender, MODEL_HOST, 900, 0, payload))
        return reply.payload

    def logits(request: str, head_id: str) -> np.ndarray:
        reply = tell(KEY_HOLDER, p.ClassifyRequest(request, head_id, images))
        assert isinstance(reply, p.ClassifyResponse), reply
        return reply.plain_logits

    before = logits("one", lab.head_ids[0])
    assert np.array_equal(before, head.logits(lab.evaluation_features_in(lab.worlds[2])[0]))
    print_ = lab.backbone.fingerprint
    narrow = p.AdaptedBlock(WHOLE, (np.ones((256, 9), np.float32), np.ones(256, np.float32)))
    huge = np.full((256, 1), 1e38, np.float32)
    for block, code in (
        (narrow, FailureCode.BAD_TENSOR),
        (p.AdaptedBlock(FACTORS, (huge.T.copy(), huge)), FailureCode.BAD_VALUE),
    ):
        refused = tell(DATA_OWNER, p.PlainHead(lab.head_ids[0], head.weight, head.bias, print_, block))
        assert isinstance(refused, p.Failure)
        assert refused.code == code
    assert tell(KEY_HOLDER, p.PlainHead("h", head.weight, head.bias, print_)).code == FailureCode.REFUSED
    assert np.array_equal(logits("two", lab.head_ids[0]), before)
    # A head that brings no block runs behind the public backbone, beside others that do.
    assert isinstance(tell(DATA_OWNER, p.PlainHead("plain", head.weight, head.bias, print_)), p.HeadInstalled)
    public = LinearHead(head.weight, head.bias).logits(lab.evaluation_features[0])
    assert np.array_equal(logits("three", "plain"), public)


def test_a_new_key_leaves_blocks_as_they_are() -> None:
    lab = _lab()
    transport, board, _ = seat_trio(lab, 3)
    host: Any = transport._parties[MODEL_HOST]
    before = {name: (held.backbone.fingerprint, held.fingerprint) for name, held in host._heads.items()}
    board.ask(KEY_HOLDER, p.RotateKey(), p.KeyRotated)
    after = {name: (held.backbone.fingerprint, held.fingerprint) for name, held in host._heads.items()}
    for name in lab.head_ids:
        assert after[name][0] == before[name][0] != lab.backbone.fingerprint
        assert after[name][1] != before[name][1]
