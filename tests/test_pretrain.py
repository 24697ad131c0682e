"""Pretraining of strokenet: repeatable, improving, and saved with what is needed to load it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rhe_parties.errors import DataError, ParameterError
from rhe_parties.model.backbone import load_backbone
from rhe_parties.model.pretrain import (
    DEFAULT_SEED,
    DEFAULT_STEPS,
    Progress,
    pretrain_strokenet,
    prototype_loss,
    save_pretrained,
)
from rhe_parties.rng import torch_stream


def test_prototype_loss_is_leave_one_out() -> None:
    features = torch.rand(12, 5, generator=torch_stream(0, "features"))
    loss, accuracy = prototype_loss(features, 3, temperature=2.0)
    unit = F.normalize(features, dim=1)
    total, hits = 0.0, 0
    for i in range(12):
        scores = []
        for k in range(3):
            members = [j for j in range(4 * k, 4 * k + 4) if j != i]
            scores.append(-2.0 * float((unit[i] - unit[members].mean(0)).square().sum()))
        total += float(F.cross_entropy(torch.tensor([scores]), torch.tensor([i // 4])))
        hits += int(np.argmax(scores) == i // 4)
    assert float(loss) == pytest.approx(total / 12, abs=1e-5)
    assert float(accuracy) == pytest.approx(hits / 12)


def test_training_improves_repeats_and_loads(tmp_path: Path) -> None:
    reports: list[Progress] = []
    threads = torch.get_num_threads()
    first = pretrain_strokenet(3, 9, reports.append, report_every=3, calibration_images=256)
    assert torch.get_num_threads() == threads
    assert [report.step for report in reports] == [3, 6, 9]
    assert reports[-1].loss < reports[0].loss
    again = pretrain_strokenet(3, 9, calibration_images=256)
    assert all(torch.equal(value, again.state[name]) for name, value in first.state.items())
    assert first.metadata == again.metadata
    other = pretrain_strokenet(4, 1, calibration_images=256)
    assert not torch.equal(first.state["dense.0.weight"], other.state["dense.0.weight"])
    path = tmp_path / "new" / "net.safetensors"
    save_pretrained(first, path)
    save_pretrained(again, tmp_path / "again.safetensors")
    assert path.read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    backbone = load_backbone("strokenet", path)
    assert backbone.metadata["seed"] == "3"
    assert backbone.metadata["steps"] == "9"


def test_shipped_weights_are_those_of_the_defaults() -> None:
    metadata = load_backbone("strokenet").metadata
    assert metadata["seed"] == str(DEFAULT_SEED)
    assert metadata["steps"] == str(DEFAULT_STEPS)


def test_bad_calls(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="at least 1 step, got 0"):
        pretrain_strokenet(0, 0)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot write weights"):
        save_pretrained(pretrain_strokenet(0, 1, calibration_images=256), tmp_path / "file" / "net.safetensors")
