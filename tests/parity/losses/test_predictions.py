"""Objectives that predict something known of an image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mvkit.objectives import registry
from mvkit.objectives.base import Loss, accuracies, mean_cross_entropy

Make = Callable[..., Any]

#: All files that the tests of this folder, or of other parts of training, read.
READ = {
    *("instance_discrimination", "mocov2", "simclr", "simsiam", "barlow_twins", "vicreg", "rotnet"),
    *("relative_location", "autoencoder", "depth_prediction", "cross_entropy"),
    *("finetune_linear_readout", "finetune_rotnet_head", "lars_and_schedule"),
}


def test_no_golden_is_left_out(goldens: Path) -> None:
    files = {path.stem for path in (goldens / "losses").glob("*.npz")}
    assert files
    assert files <= READ


def test_rotnet(loss_golden: Make, fit: Make, toy: Make, close: Make, batch_of: Make) -> None:
    golden = loss_golden("rotnet")
    encoder = toy(golden, "backbone:")
    fitting = fit(golden, encoder, registry.RotNet(), width=encoder.fc.out_features)
    fitting.fill("param:", "backbone:")
    images = golden.leaf("input")
    # There an image's rotations may come in any order; the objective wants 0, 90, 180, 270 degrees.
    order = golden["targets"].argsort(1)
    rows = torch.arange(len(images))[:, None]
    batch = batch_of(*images[rows, order].unbind(1))
    embedded = fitting.objective.embed(encoder, batch)
    close(embedded[0], golden["out:predictions"].view(*images.shape[:2], -1)[rows, order])
    fitting.finish(fitting.objective.criterion(embedded, batch), input=images)


def test_relative_location(loss_golden: Make, fit: Make, toy: Make) -> None:
    golden = loss_golden("relative_location")
    encoder = toy(golden, "backbone:")
    (hidden,) = golden.widths(r"param:neck\.fc\.weight")
    fitting = fit(golden, encoder, registry.RelativeLocation(hidden=hidden), width=encoder.fc.out_features)
    fitting.fill("param:", "backbone:")
    classes = golden["patch_label"]
    for mode in ("eval", "train"):
        fitting.train(mode == "train").zero_grad()
        images = golden.leaf("input")
        # There every neighbour has a centre of its own, so the pairs go to the head directly.
        seen, around = (encoder(part) for part in images.flatten(0, 1).chunk(2, dim=1))
        keep = golden["dropout_keep_mask"].bool() if mode == "train" else None
        logits = fitting.objective.logits(seen, around, keep=keep).view(*classes.shape, -1)
        loss = Loss(mean_cross_entropy(logits, classes), accuracies(logits, classes))
        fitting.finish(loss, f"{mode}:", input=images)
    fitting.check_state("after:")


def test_relative_location_sees_the_centre_once(
    loss_golden: Make, fit: Make, toy: Make, batch_of: Make
) -> None:
    """One centre for eight neighbours: the objective's nine views give the loss of the eight pairs."""
    golden = loss_golden("relative_location")
    encoder = toy(golden, "backbone:")
    (hidden,) = golden.widths(r"param:neck\.fc\.weight")
    fitting = fit(
        golden, encoder, registry.RelativeLocation(hidden=hidden), width=encoder.fc.out_features
    ).eval()
    fitting.fill("param:", "backbone:")
    images = golden["input"]
    centre, neighbours = images[:, 0, 3:], images[:, :, :3]
    logits = fitting.objective.embed(encoder, batch_of(centre, *neighbours.unbind(1)))[0]
    for place in range(neighbours.shape[1]):
        pair = fitting.objective.logits(encoder(neighbours[:, place]), encoder(centre), keep=None)
        torch.testing.assert_close(logits[:, place], pair)


class ToyAutoEncoder(nn.Module):
    def __init__(self, code: int, pixels: int) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(pixels, code), nn.Linear(code, pixels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        code = self.enc(images.flatten(1))
        return {"hidden_vec": code, "output": self.dec(code).view_as(images)}


def test_autoencoder(loss_golden: Make, fit: Make, close: Make, batch_of: Make) -> None:
    golden = loss_golden("autoencoder")
    sizes = golden["model:enc.weight"].shape
    for weight, key in ((golden.number("l1_weighting"), "loss"), (1.0, "loss_l1_weighting_1")):
        fitting = fit(golden, ToyAutoEncoder(*sizes), registry.AutoEncoder(l1_weight=weight), shape=None)
        fitting.fill("model:")
        images = golden.leaf("input")
        loss = fitting.objective.loss(fitting.encoder, batch_of(images))
        close(loss.total, golden[f"out:{key}"])
        if key == "loss":
            fitting.finish(loss, input=images)


class Decoded(nn.Module):
    """Stands for a network whose decoded image the golden gives."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"output": images}


def test_depth_prediction(loss_golden: Make, fit: Make, close: Make, batch_of: Make) -> None:
    golden = loss_golden("depth_prediction")
    fitting = fit(golden, Decoded(), registry.DepthPrediction(), shape=None)
    fitting.fill("param:")
    images = golden.leaf("decoded")
    batch = batch_of(images, target=golden["depth"])
    embedded = fitting.objective.embed(fitting.encoder, batch)
    close(embedded[0], golden["out:depth_pred"])
    fitting.finish(fitting.objective.criterion(embedded, batch), decoded=images)


def test_cross_entropy(loss_golden: Make, fit: Make, toy: Make, close: Make, batch_of: Make) -> None:
    golden = loss_golden("cross_entropy")
    encoder = toy(golden, "backbone:")
    width = encoder.fc.out_features
    fitting = fit(golden, encoder, registry.CrossEntropy(), width=width, n_classes=width)
    fitting.fill("backbone:")
    images = golden.leaf("input")
    batch = batch_of(images, label=golden["targets"])
    embedded = fitting.objective.embed(encoder, batch)
    close(embedded[0], golden["out:predictions"])
    fitting.finish(fitting.objective.criterion(embedded, batch), input=images)


@pytest.mark.parametrize("name", ["finetune_linear_readout", "finetune_rotnet_head"])
def test_linear_readout(loss_golden: Make, fit: Make, close: Make, batch_of: Make, name: str) -> None:
    """The readout alone: in training no gradient leaves it, here the golden asks for it."""
    golden = loss_golden(name)
    values = golden.leaf("features")
    (weight,) = [array for array in golden.under("param:").values() if array.ndim == 2]
    pooled = any("batchnorm" in key for key in golden.arrays)
    chosen = registry.LinearReadout(
        pool_px=round((weight.shape[1] / values.shape[1]) ** 0.5) if pooled else None
    )
    fitting = fit(golden, nn.Identity(), chosen, shape=values.shape[1:], n_classes=len(weight))
    fitting.fill("param:")
    logits = fitting.objective.readout(values)
    close(logits, golden["out:predictions"])
    batch = batch_of(values, label=golden["targets"])
    fitting.finish(fitting.objective.criterion((logits,), batch), features=values)
    if pooled:
        fitting.check_state("after:")


def test_accuracies_are_compared_in_float32(tmp_path: Path, fit: Make, golden_at: Make) -> None:
    """One of three right is another number in float32, in which the reference computes, than in float64."""
    logits = torch.eye(6, dtype=torch.float64)[[0, 1, 1]]
    classes = torch.tensor([0, 2, 3])
    loss = Loss(mean_cross_entropy(logits, classes), accuracies(logits, classes))
    recorded = {"out:loss": loss.total, "out:acc1": np.float32(1) / np.float32(3), "out:acc5": np.float64(1)}
    np.savez(tmp_path / "thirds.npz", **recorded)
    fitting = fit(golden_at(tmp_path / "thirds.npz"), nn.Identity(), registry.RotNet(), width=6)
    assert float(recorded["out:acc1"]) != 1 / 3
    fitting.check_loss(loss)
    fitting.check_loss(Loss(loss.total, {"top1": torch.tensor(1 / 3, dtype=torch.float64), "top5": 1.0}))
    with pytest.raises(AssertionError, match="acc1"):
        fitting.check_loss(Loss(loss.total, {"top1": torch.tensor(1 / 3 + 1e-6), "top5": 1.0}))
