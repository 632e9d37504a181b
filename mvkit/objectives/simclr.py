"""SimCLR: two views of an image attract each other, all other views repel (Chen et al. 2020a)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from mvkit.distributed import all_gather
from mvkit.images.settings import Batch
from mvkit.objectives.base import BuildContext, Loss, Objective, batch_mean, features, share_of
from mvkit.objectives.heads import simclr_neck
from mvkit.objectives.registry import SimClr

#: Similarities at a time: 2**24 float32 are 64 MiB. The matrix of the published batch has four times
#: that, and autograd would save it more than once (measured: 940 MB against 370 MB in blocks).
_BLOCK = 2**24
#: Added to norms before division, as in the published code.
_TINY = 1e-10


class SimClrObjective(Objective):
    """NT-Xent (Chen et al. 2020a, equation 1): cross entropy over all other 2N - 1 views."""

    couples_samples: ClassVar[bool] = True
    n_inputs: ClassVar[int] = 2

    def __init__(self, settings: SimClr, context: BuildContext) -> None:
        super().__init__(seed=context.seed)
        self.temperature = settings.temperature
        self.neck = simclr_neck(context.width, settings.hidden, settings.width)

    def embed(self, encoder: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """Return (n_images, 2, width); both views pass the batch norms together, interleaved."""
        views = torch.stack(self.inputs(batch), dim=1)
        projected: Tensor = self.neck(features(encoder, views.flatten(0, 1)))
        return (projected.view(*views.shape[:2], -1),)

    def compare(self, embedded: tuple[Tensor, ...], batch: Batch) -> Loss:
        """Compare this process's views with those of all processes."""
        del batch
        rows = embedded[0].flatten(0, 1)
        rows = rows / (rows.norm(dim=1, keepdim=True) + _TINY)
        all_rows = all_gather(rows)
        first = share_of(len(rows)).first
        own = torch.arange(first, first + len(rows), device=rows.device)
        return Loss(batch_mean(self._losses(rows, all_rows, own)))

    def _losses(self, rows: Tensor, all_rows: Tensor, own: Tensor) -> Tensor:
        n_rows = max(1, _BLOCK // len(all_rows))
        if n_rows >= len(rows):
            return _cross_entropies(rows, all_rows, own, self.temperature)
        # Similarities are computed again for the gradient: cheap beside the network.
        losses = [
            checkpoint(
                _cross_entropies,
                rows[first : first + n_rows],
                all_rows,
                own[first : first + n_rows],
                self.temperature,
                use_reentrant=False,
                preserve_rng_state=False,
            )
            for first in range(0, len(rows), n_rows)
        ]
        return torch.cat(losses)


def _cross_entropies(rows: Tensor, all_rows: Tensor, own: Tensor, temperature: float) -> Tensor:
    """Return each row's cross entropy; ``own``: its row of ``all_rows``, where views of an image adjoin."""
    similarity = rows @ all_rows.T / temperature
    similarity = similarity.scatter(1, own[:, None], float("-inf"))
    return functional.cross_entropy(similarity, own ^ 1, reduction="none")
