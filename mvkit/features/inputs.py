"""From pictures to a network's inputs, and the record of how that was done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import mvkit
from mvkit.errors import DataError, UsageError, printable
from mvkit.features.featureset import FeatureOrigin, ImageIds
from mvkit.features.stimuli import Stimuli
from mvkit.files import name_text
from mvkit.models.foreign.preparing import as_preprocessing
from mvkit.models.state import state_digest


def network_inputs(model: nn.Module, stimuli: Stimuli, pictures: Sequence[NDArray[Any]]) -> Tensor:
    """Turn pictures into a batch of inputs on the CPU.

    Parameters
    ----------
    model
        The network; its ``preprocess`` is applied, image by image where sizes differ: mvkit's own
        preprocessing, a preset of torchvision's, or a function of one PIL image (see
        :class:`mvkit.models.foreign.preparing.UserPreprocessing`).
    stimuli
        Where the pictures come from.
    pictures
        uint8 (H, W) or (H, W, 3) each, or prepared float (C, H, W).

    Raises
    ------
    UsageError
        If the network has no ``preprocess`` and the pictures are not prepared, or it is something else.
    DataError
        If prepared inputs hold NaN or infinity.
    """
    if stimuli.is_prepared:
        prepared = np.stack(pictures)
        if not np.isfinite(prepared).all():
            raise DataError(f"prepared images of '{stimuli.name}' hold NaN or infinity")
        return torch.from_numpy(prepared)
    preprocess = getattr(model, "preprocess", None)
    if preprocess is None:
        raise UsageError(
            f"{type(model).__name__} has no .preprocess, so mvkit cannot make its inputs of pictures\n"
            "give images that are prepared already: a float array or tensor (n, 3, height, width)"
        )
    prepare = as_preprocessing(preprocess, _name(model))
    if len({picture.shape for picture in pictures}) == 1:
        return prepare(np.stack(pictures))
    inputs = [prepare(picture[np.newaxis]) for picture in pictures]
    shapes = list(dict.fromkeys(tuple(one.shape[1:]) for one in inputs))
    if len(shapes) > 1:
        raise UsageError(
            f"{_name(model)}: its preprocessing gives images of several sizes inputs of several shapes "
            f"({shapes[0]}, {shapes[1]})\ngive images of one size, or --input-size PX (in Python input_size=)"
        )
    return torch.cat(inputs)


def describe_origin(model: nn.Module, stimuli: Stimuli, stimuli_digest: str) -> FeatureOrigin:
    """Gather what identifies a run: network, weights, preprocessing, images, versions."""
    weights_id = getattr(model, "weights_id", None)
    return FeatureOrigin(
        model_name=printable(_name(model)),
        weights_id=str(weights_id) if weights_id else state_digest(model),
        preprocessing={} if stimuli.is_prepared else describe_preprocessing(model),
        stimuli=printable(stimuli.name),
        stimuli_digest=stimuli_digest,
        image_ids=_storable(stimuli.image_ids),
        versions={"mvkit": mvkit.__version__, "torch": str(torch.__version__), "numpy": np.__version__},
    )


def _storable(ids: ImageIds) -> ImageIds:
    """Return ids that a file can hold: names of files, given as the system has them, as text."""
    if not any(isinstance(one, str) and printable(one) != one for one in ids):
        return ids
    return tuple(name_text(one) if isinstance(one, str) else str(one) for one in ids)


def describe_preprocessing(model: nn.Module) -> dict[str, object]:
    """Return what is recorded of a network's preprocessing, as plain data."""
    prepare = as_preprocessing(getattr(model, "preprocess", None), _name(model))
    # As JSON gives it back, so that features in memory and from a file say the same.
    described: dict[str, object] = json.loads(json.dumps(prepare.as_dict()))
    return described


def _name(model: nn.Module) -> str:
    return str(getattr(model, "name", type(model).__name__))
