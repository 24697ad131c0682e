"""Backbones: shipped weights, torchvision networks, bits, gradients, bad files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from rhe_parties.data.datasets import Dataset, load_dataset, to_unit
from rhe_parties.data.strokes import draw_images
from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.model.backbone import Backbone, backbone_catalogue, load_backbone, shipped_weights
from rhe_parties.model.fewshot import fewshot_accuracy, fewshot_table
from rhe_parties.model.pretrain import FEATURE_NORM
from rhe_parties.rng import torch_stream


@pytest.fixture(scope="module")
def strokenet() -> Backbone:
    return load_backbone("strokenet")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def test_shipped_strokenet_keeps_its_promises(strokenet: Backbone) -> None:
    assert shipped_weights().stat().st_size < 1 << 20
    assert strokenet.features == 256
    assert not strokenet.untrained
    assert {"seed", "steps", "gain", "version"} <= set(strokenet.metadata)
    images = draw_images(1024, torch_stream(99, "unseen"))
    with torch.no_grad():
        features = strokenet.forward(images)
    assert features.min() >= 0
    assert abs(float(features.norm(dim=1).mean()) / FEATURE_NORM - 1) < 0.02
    # Features of a collapsed network would live in a handful of directions.
    share = torch.linalg.svdvals(features - features.mean(0)).square()
    share = share / share.sum()
    assert float(torch.exp(-(share * share.clamp_min(1e-12).log()).sum())) > 15


def test_few_shot_accuracy_on_digits(strokenet: Backbone, digits: Dataset) -> None:
    one, four = fewshot_table(strokenet, digits, (1, 4), draws=50)
    assert one.mean >= 0.78
    assert four.mean >= 0.91
    assert one.low < one.mean < one.high
    assert four.high - four.low < one.high - one.low


def test_few_shot_of_an_untrained_network_is_worse(digits: Dataset) -> None:
    untrained = fewshot_accuracy(load_backbone("strokenet", "random:1"), digits, 4, draws=10)
    assert 0.1 < untrained.mean < 0.85


def test_few_shot_refuses_nonsense(strokenet: Backbone, digits: Dataset) -> None:
    with pytest.raises(ParameterError, match="at least 2 draws"):
        fewshot_accuracy(strokenet, digits, 1, draws=1)
    with pytest.raises(DataError, match="private images, fewer than 500"):
        fewshot_accuracy(strokenet, digits, 500)


def test_bits_do_not_depend_on_company(strokenet: Backbone, digits: Dataset) -> None:
    images = digits.images[:100]
    whole = strokenet.extract(images)
    order = np.random.default_rng(0).permutation(100)
    np.testing.assert_array_equal(strokenet.extract(images[order]), whole[order])
    for size in (1, 3, 8, 37):
        np.testing.assert_array_equal(strokenet.extract(images, batch_size=size), whole)
    np.testing.assert_array_equal(strokenet.extract(images[17:18])[0], whole[17])
    assert strokenet.extract(images[:0]).shape == (0, 256)


def test_extract_is_forward(strokenet: Backbone, digits: Dataset) -> None:
    with torch.no_grad():
        direct = strokenet.forward(torch.from_numpy(to_unit(digits.images[:8])))
    np.testing.assert_allclose(strokenet.extract(digits.images[:8]), direct, atol=1e-5)


def test_gradient_reaches_the_images_alone(strokenet: Backbone) -> None:
    images = torch.zeros(2, 3, 20, 20, requires_grad=True)
    noisy = images + torch.randn(2, 3, 20, 20, generator=torch_stream(0, "noise"))
    strokenet.forward(noisy).sum().backward()
    assert images.grad is not None
    assert float(images.grad.abs().sum()) > 0
    # The finite difference along the gradient agrees with it.
    step = 1e-3 * images.grad / images.grad.norm()
    with torch.no_grad():
        rise = strokenet.forward(noisy + step).sum() - strokenet.forward(noisy - step).sum()
    assert float(rise) == pytest.approx(2e-3 * float(images.grad.norm()), rel=0.1)


def test_colour_and_size_are_converted(strokenet: Backbone) -> None:
    gray = draw_images(8, torch_stream(3, "gray"))
    with torch.no_grad():
        plain = strokenet.forward(gray)
        np.testing.assert_allclose(strokenet.forward(gray.expand(-1, 3, -1, -1)), plain, atol=1e-4)
        large = torch.nn.functional.interpolate(gray, scale_factor=2, mode="nearest")
        similar = torch.nn.functional.cosine_similarity(strokenet.forward(large), plain)
    assert float(similar.min()) > 0.8
    with pytest.raises(NumericError, match="1 or 3"):
        strokenet.forward(torch.zeros(1, 2, 32, 32))
    with pytest.raises(NumericError, match="uint8"):
        strokenet.extract(np.zeros((1, 1, 32, 32), np.float32))  # type: ignore[arg-type]


def test_fingerprints_tell_weights_apart(strokenet: Backbone) -> None:
    one, two = load_backbone("strokenet", "random:1"), load_backbone("strokenet", "random:2")
    again = load_backbone("strokenet", "random:1")
    assert one.untrained
    assert "untrained" in repr(one)
    assert one.fingerprint == again.fingerprint
    assert len({one.fingerprint, two.fingerprint, strokenet.fingerprint}) == 3


def test_torchvision_network_gives_its_penultimate_layer(tmp_path: Path, digits: Dataset) -> None:
    state = torchvision.models.resnet18(weights=None, num_classes=7).state_dict()
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    backbone = load_backbone("resnet18", path)
    assert (backbone.features, backbone.image_size) == (512, 224)
    whole = torchvision.models.resnet18(weights=None, num_classes=7)
    whole.load_state_dict(state)
    caught: list[torch.Tensor] = []
    whole.fc.register_forward_hook(lambda _module, inputs, _output: caught.append(inputs[0]))
    pixels = torch.from_numpy(digits.images[:2]).float() / 255
    pixels = torch.nn.functional.interpolate(pixels.expand(-1, 3, -1, -1), size=224, mode="bilinear")
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        whole.eval()((pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    np.testing.assert_allclose(backbone.extract(digits.images[:2]), caught[0], rtol=1e-3, atol=1e-4)
    save_file(state, tmp_path / "weights.safetensors")
    assert load_backbone("resnet18", tmp_path / "weights.safetensors").fingerprint == backbone.fingerprint


@pytest.mark.parametrize(("name", "features"), [("efficientnet_b0", 1280), ("mobilenet_v3_small", 1024)])
def test_other_networks_lose_their_last_layer(name: str, features: int) -> None:
    before = torch.random.get_rng_state()
    backbone = load_backbone(name, "random:3")
    assert torch.equal(before, torch.random.get_rng_state()), "the global random state was touched"
    assert backbone.features == features
    with torch.no_grad():
        assert backbone.forward(torch.zeros(1, 1, 32, 32)).shape == (1, features)
    assert backbone.fingerprint == load_backbone(name, "random:3").fingerprint


def test_unknown_backbones_and_bad_weights(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="did you mean 'strokenet'"):
        load_backbone("stroknet")
    with pytest.raises(ParameterError, match="whole number"):
        load_backbone("strokenet", "random:x")
    with pytest.raises(ParameterError, match="does not end in a linear layer"):
        load_backbone("squeezenet1_0", "random:0")
    with pytest.raises(DataError, match="there is no file"):
        load_backbone("strokenet", tmp_path / "absent.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a weight file")
    with pytest.raises(DataError, match=r"broken\.safetensors holds no strokenet weights"):
        load_backbone("strokenet", broken)
    with pytest.raises(DataError, match="cannot read weights"):
        load_backbone("resnet18", broken)
    other = tmp_path / "other.pth"
    torch.save({"a": torch.zeros(1)}, other)
    with pytest.raises(DataError, match="do not fit backbone resnet18"):
        load_backbone("resnet18", other)
    save_file({"a": torch.zeros(1)}, tmp_path / "strange.safetensors")
    with pytest.raises(DataError, match="holds no strokenet weights"):
        load_backbone("strokenet", tmp_path / "strange.safetensors")


def test_weights_with_code_inside_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"a": Path("/")}, path)
    with pytest.raises(DataError, match="cannot read weights"):
        load_backbone("resnet18", path)


def test_hub_without_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models.ResNet18_Weights.DEFAULT, "get_state_dict", offline, raising=False)
    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", offline)
    with pytest.raises(DataError, match=r"could not be fetched .* give the file as weights"):
        load_backbone("resnet18")


def test_catalogue_starts_with_the_papers() -> None:
    names = [name for name, _, _ in backbone_catalogue()]
    assert names[:3] == ["strokenet", "efficientnet_b0", "wide_resnet50_2"]
    assert len(names) == len(set(names)) > 20
