"""Auto-encoding: reconstruct the image through a sparse code."""

from __future__ import annotations

from torch import Tensor, nn

from mvkit.errors import UsageError
from mvkit.images.settings import Batch
from mvkit.objectives.base import BuildContext, Loss, Objective, batch_mean, decode
from mvkit.objectives.registry import AutoEncoder


class AutoEncoderObjective(Objective):
    """Half the mean squared error, plus weight * mean |code| (Nayebi, Kong et al. 2023)."""

    def __init__(self, settings: AutoEncoder, context: BuildContext) -> None:
        super().__init__(seed=context.seed)
        self.l1_weight = settings.l1_weight

    def embed(self, encoder: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """Return reconstructions (like the images) and codes (n_images, width)."""
        (images,) = self.inputs(batch)
        outputs = decode(encoder, images)
        if "hidden_vec" not in outputs:
            raise UsageError("autoencoder: the network has no output named 'hidden_vec', its code")
        return outputs["output"], outputs["hidden_vec"]

    def compare(self, embedded: tuple[Tensor, ...], batch: Batch) -> Loss:
        """Compare the reconstructions with the network's own input."""
        images, codes = embedded
        error = 0.5 * batch_mean((images - batch.views[0].to(images.dtype)).square())
        sparseness = self.l1_weight * batch_mean(codes.abs())
        return Loss(error + sparseness, {"error": error.detach(), "sparseness": sparseness.detach()})
