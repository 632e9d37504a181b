"""Run as one of several processes: all evaluators on the same images; once more without exchange.

Saves {"together" and "apart": {"metrics", "state"}}.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import distributed

from mvkit.distributed import rank, world_size
from mvkit.images.settings import Batch
from mvkit.objectives.base import build_objective
from mvkit.objectives.registry import CrossEntropy, InstanceRecognition
from mvkit.pipeline.predictivity import NeuralEvaluator
from mvkit.training import evaluation as accuracy
from mvkit.training import evaluation as bank_neighbours
from mvkit.training import evaluation as feature_neighbours
from mvkit.training import evaluation as linear_probe
from mvkit.training import evaluation as validation_loss
from mvkit.training.evaluation import EvaluationContext, EvaluatorSet
from mvkit.training.recipe import (
    BankNeighbours,
    FeatureNeighbours,
    LinearProbe,
    NeuralPredictivity,
    ValidationLoss,
)

DEVICE = torch.device("cpu")


class Scored(NeuralEvaluator):
    """Stands for a scoring run; another process's numbers would be others."""

    def __init__(self) -> None:
        self.name, self.every_epochs, self._settings = "neural", 1, NeuralPredictivity()
        self._keys = ("VISp", "VISl", "all")

    def _score(self, context: EvaluationContext) -> dict[str, float]:
        del context
        return {"VISp": 0.25 + rank(), "VISl": float("nan"), "all": 0.125 + rank()}


def fixtures() -> ModuleType:
    """The images and the network of the other tests."""
    spec = importlib.util.spec_from_file_location("fixtures", Path(__file__).parent / "conftest.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their module up there.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def evaluate() -> dict[str, Any]:
    """Three steps on this process's rows, then everything that is measured."""
    make = fixtures()
    images, encoder = make.clusters(), make.small_net()
    common = {"encoder": encoder, "input_px": 2, "n_images": 60, "seed": 0}
    recognition = build_objective(InstanceRecognition(width=4, noise_samples=8), n_classes=3, **common)
    classes = build_objective(CrossEntropy(), n_classes=5, **common)
    probe = linear_probe.LinearProbeEvaluator(
        LinearProbe(layer="norm"), name="probe", width=12, n_classes=3, device=DEVICE
    )
    learning = EvaluatorSet(
        [
            bank_neighbours.BankNeighboursEvaluator(BankNeighbours(), name="bank", n_train=60),
            feature_neighbours.FeatureNeighboursEvaluator(FeatureNeighbours(k=5, max_images=50), name="knn"),
            probe,
            Scored(),
        ]
    )
    loss = EvaluatorSet(
        [validation_loss.ValidationLossEvaluator(ValidationLoss(), name="loss", views="validation")]
    )
    for step in range(3):
        whole = torch.arange(step * 18, (step + 1) * 18)
        rows = whole.tensor_split(world_size())[rank()]
        batch = Batch((images.views["train"][rows],), index=rows, label=images.label["train"][rows])
        learning.observe(encoder, batch, step=step)
        with torch.no_grad():
            recognition.after_step(recognition.eval().embed(encoder.eval(), batch), batch)
        encoder.train()
    place = {"encoder": encoder, "images": images, "device": DEVICE, "epoch": 1, "step": 3, "seed": 5}
    metrics = learning.evaluate(EvaluationContext(objective=recognition, **place))
    metrics |= loss.evaluate(EvaluationContext(objective=classes, **place))
    return {"metrics": metrics, "state": learning.state_dict()}


def main(own: str, n: str, meet: str, target: str) -> None:
    """Take part, and save."""
    distributed.init_process_group("gloo", init_method=f"file://{meet}", rank=int(own), world_size=int(n))
    together = evaluate()
    with ExitStack() as stack:
        for module in (accuracy, bank_neighbours, feature_neighbours, linear_probe, validation_loss):
            for exchange in ("all_reduce", "all_gather"):
                if hasattr(module, exchange):
                    stack.enter_context(mock.patch.object(module, exchange, lambda tensor: tensor))
        apart = evaluate()
    torch.save({"together": together, "apart": apart}, target)
    distributed.destroy_process_group()
    # Gloo's threads may outlive the group, and C++ would abort when the interpreter ends.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
