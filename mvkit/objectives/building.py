"""An objective from its settings."""

from __future__ import annotations

from zlib import crc32

import torch
from torch import nn

from mvkit.draws import hashed
from mvkit.objectives.base import Objective
from mvkit.objectives.layer_output import layer_output, module_path
from mvkit.objectives.mirrored import decoded
from mvkit.objectives.settings import LinearReadout, ObjectiveSettings
from mvkit.objectives.surroundings import Surroundings
from mvkit.objectives.table import row_of

_HEADS = crc32(b"heads")
_COLOURS = 3


def build_objective(
    settings: ObjectiveSettings,
    *,
    encoder: nn.Module,
    input_px: int,
    n_images: int,
    n_classes: int | None,
    seed: int,
) -> Objective:
    """Build an objective with fresh heads, banks and queues, on the CPU.

    Parameters
    ----------
    settings
        What the recipe says of it.
    encoder
        The network, with the weights that training starts from (MoCo v2
        copies them). A network that is only read is frozen here: its
        parameters no longer require gradients.
    input_px
        Side of the network's input; one blank pass finds the width of its output.
    n_images
        Size of the training set (of the memory bank).
    n_classes
        None without labels.
    seed
        Of heads, banks, queues and of all draws during training. torch's
        global generator is left as it was.

    Returns
    -------
    Objective
        In train mode.

    Raises
    ------
    UsageError
        If network and objective do not fit, there is no such layer, or labels are missing.
    """
    row = row_of(settings)
    path = module_path(encoder, settings.layer) if isinstance(settings, LinearReadout) else ""
    surroundings = Surroundings(
        encoder=encoder,
        shape=_shape(encoder, path, input_px, decodes=row.reads == "decoded"),
        path=path,
        n_images=n_images,
        n_classes=n_classes,
        seed=seed,
    )
    # Only the CPU's generator draws: seeding all devices would disturb CUDA's.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(hashed(seed, _HEADS)))
        objective = row.build(settings, surroundings)
    if not objective.trains_encoder:
        encoder.requires_grad_(requires_grad=False)
    return objective.train()


@torch.no_grad()
def _shape(encoder: nn.Module, path: str, input_px: int, *, decodes: bool) -> torch.Size | None:
    """Return the shape of what is read for one image, in eval mode so that no statistics move."""
    like = next(encoder.parameters(), torch.zeros(()))
    blank = like.new_zeros((1, _COLOURS, input_px, input_px))
    modes = {module: module.training for module in encoder.modules()}
    encoder.eval()
    try:
        if decodes:
            decoded(encoder, blank)
            return None
        return layer_output(encoder, path, blank).shape[1:]
    finally:
        for module, training in modes.items():
            module.training = training
