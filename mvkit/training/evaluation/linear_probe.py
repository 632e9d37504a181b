"""A linear classifier that is trained beside the objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mvkit.distributed import all_reduce
from mvkit.errors import DataError
from mvkit.images.batch import Batch
from mvkit.training.evaluation.accuracy import AccuracyCount
from mvkit.training.evaluation.base import EvaluationContext, Evaluator
from mvkit.training.evaluation.layers import layer_features
from mvkit.training.evaluation.modes import undisturbed
from mvkit.training.recipe import LinearProbe

_MOMENTUM = 0.9
#: Length of an input in root mean square: with the recipe's rate of .1 and this momentum, gradient
#: descent on the cross entropy is stable (curvature at most length^2 / 2) and quick.
_LENGTH = 4.0
_SHARE = 0.1


class ProbeInputs(nn.Module):
    """Features standardised one by one, then all divided so that an input has length 4 on average.

    So one learning rate suits layers of any width and scale. Means and variances are
    those of the global batch while the probe learns, running ones when it is tested.

    Parameters
    ----------
    width
        Number of features.
    """

    mean: Tensor
    variance: Tensor
    share: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        # The share of a new batch in the running statistics: all of the first one, then a tenth.
        self.register_buffer("share", torch.ones(1))

    def learn(self, features: Tensor) -> None:
        """Take a batch into the running statistics."""
        sums = all_reduce(torch.cat([features.sum(dim=0), features.new_tensor([len(features)])]))
        mean = sums[:-1] / sums[-1]
        variance = all_reduce(((features - mean) ** 2).sum(dim=0)) / sums[-1]
        self.mean.lerp_(mean, self.share)
        self.variance.lerp_(variance, self.share)
        self.share.fill_(_SHARE)

    def forward(self, features: Tensor) -> Tensor:
        """Return standardised features (n_images, width); those that never vary become 0."""
        scale: Tensor = torch.rsqrt(self.variance + 1e-5) * (_LENGTH / self.mean.numel() ** 0.5)
        return (features - self.mean) * scale


class LinearProbeEvaluator(Evaluator):
    """Trains a linear map from detached features to classes; tests it on the validation images.

    Features are those of the first training view, computed in eval mode after the optimisation
    step: nothing of the probe reaches the network. The map starts at zero, so it needs no seed;
    its gradient is that of the global batch, so all processes keep the same map. SGD with
    momentum .9 and no decay.

    Parameters
    ----------
    settings
        Layer and learning rate.
    name
        Name in the log.
    width, n_classes
        Features of the layer, classes of the images.
    device
        Where the run computes.
    """

    headline = "top1"

    def __init__(
        self, settings: LinearProbe, *, name: str, width: int, n_classes: int, device: torch.device
    ) -> None:
        super().__init__(name=name, every_epochs=settings.every_epochs)
        self._layer = settings.layer
        self._n_classes = n_classes
        self._inputs = ProbeInputs(width).to(device)
        # Drawing weights would move the global generator, only to be overwritten.
        self.classifier = cast(
            nn.Linear,
            nn.utils.skip_init(nn.Linear, width, n_classes, device=device),  # type: ignore[no-untyped-call]
        )
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)
        self._optimiser = torch.optim.SGD(
            self.classifier.parameters(), lr=settings.learning_rate, momentum=_MOMENTUM
        )
        self._met = AccuracyCount(n_classes, device, shared=True)

    def observe(self, encoder: nn.Module, batch: Batch, *, step: int) -> None:
        """Take one step of gradient descent on the classifier."""
        del step
        if batch.label is None:
            raise DataError(f"{self.name}: the training images have no labels")
        with undisturbed(encoder):
            features = layer_features(encoder, batch.views[0], self._layer)
            self._inputs.learn(features)
        inputs = self._inputs(features)
        with torch.enable_grad(), torch.autocast(inputs.device.type, enabled=False):
            logits = self.classifier(inputs)
            summed = functional.cross_entropy(logits, batch.label, reduction="sum")
            gradients = torch.autograd.grad(summed, list(self.classifier.parameters()))
        n_rows = all_reduce(inputs.new_tensor([float(len(inputs))]))
        for parameter, gradient in zip(self.classifier.parameters(), gradients, strict=True):
            parameter.grad = all_reduce(gradient) / n_rows
        self._optimiser.step()
        self._met.add(logits.detach(), batch.label)

    def evaluate(self, context: EvaluationContext) -> Mapping[str, float]:
        """Return ``top1`` (and ``top5``) on validation images, and on the batches met since last time.

        The latter, ``train_top1``, are answers given before learning from the batch.
        """
        count = AccuracyCount(self._n_classes, context.device)
        everything = np.arange(context.images.n_images("val"), dtype=np.int64)
        with context.images.batches("val", everything) as batches:
            for batch in batches:
                if batch.label is None:
                    raise DataError(f"{self.name}: the validation images have no labels")
                features = layer_features(context.encoder, batch.views[0], self._layer)
                count.add(self.classifier(self._inputs(features)), batch.label)
        met = {f"train_{key}": value for key, value in self._met.fractions().items()}
        self._met.clear()
        return {**count.fractions(), **met}

    def state_dict(self) -> dict[str, Any]:
        """Return classifier, statistics, optimiser and counts."""
        return {
            "classifier": self.classifier.state_dict(),
            "inputs": self._inputs.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "met": self._met.counts.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.classifier.load_state_dict(state["classifier"])
        self._inputs.load_state_dict(state["inputs"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._met.counts.copy_(state["met"])
