"""One journey of all images through a network, begun with a look at what the first one gives.

The first image goes through alone. What it gives says which layers there are, how wide they are and what the
rest will need, before anything else is done; the others follow in batches. No image goes through twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mvkit.features.featureset import LayerInfo
from mvkit.features.inputs import network_inputs
from mvkit.features.modes import evaluating, floating_dtype, parse_device
from mvkit.features.stimuli import Stimuli
from mvkit.features.stored_layer import StoredLayer
from mvkit.features.tapping import LayerTap, layers_to_record, published_layers

Progress = Callable[[int, int], None]
Rows = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class FirstLook:
    """What the first image gives.

    Attributes
    ----------
    layers
        Layer -> its shape for one image, in the model's order; under final names (``name[0]``, ``name:key``).
    rows
        Layer -> float32 (1, n_features).
    seconds
        How long the image took.
    """

    layers: Mapping[str, LayerInfo]
    rows: Rows
    seconds: float


class ForwardPass:
    """Images on their way through a network.

    Parameters
    ----------
    model
        The network.
    stimuli
        The images.
    layers
        Names or patterns; None for the published list.
    batch_size
        Images per forward pass after the first; None: chosen by the size of the inputs, and by nothing else,
        so that the same model and images give the same bits whichever layers are asked for.
    device
        Where to compute.
    """

    def __init__(
        self,
        model: nn.Module,
        stimuli: Stimuli,
        layers: str | Sequence[str] | None,
        *,
        batch_size: int | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.model = model
        self.stimuli = stimuli
        self.wanted = layers_to_record(model, layers)
        self.batch_size = batch_size
        self.device = parse_device(device)
        self._look: FirstLook | None = None

    def look(self) -> FirstLook:
        """Show the first image, once; later calls return what it gave."""
        if self._look is None:
            began = time.perf_counter()
            rows, infos = self._batch(LayerTap(self.model, self.wanted), 0, 1)
            self._look = FirstLook(infos, rows, time.perf_counter() - began)
        return self._look

    @contextmanager
    def features(
        self, names: Sequence[str], *, scratch: Path, progress: Progress | None = None
    ) -> Iterator[Mapping[str, NDArray[np.float32] | StoredLayer]]:
        """Show the other images and give the features of some of the layers found by :meth:`look`.

        Parameters
        ----------
        names
            Layers, by the names of :attr:`FirstLook.layers`.
        scratch
            Folder for what does not fit in memory; it is gone when the block ends.
        progress
            Called with (images done, images in total).

        Yields
        ------
        mapping
            Layer -> float32 (n_images, n_features), an array or a :class:`StoredLayer`.
        """
        look = self.look()
        n_images = len(self.stimuli.image_ids)
        tap = LayerTap(self.model, layers_to_record(self.model, list(names)))
        arrays = {name: np.empty((n_images, look.layers[name].n_features), np.float32) for name in names}
        for name in names:
            arrays[name][0] = look.rows[name][0]
        size = self.batch_size or 32
        for start in range(1, n_images, size):
            stop = min(start + size, n_images)
            rows, _ = self._batch(tap, start, stop)
            for name in names:
                arrays[name][start:stop] = rows[name]
            if progress is not None:
                progress(stop, n_images)
        yield arrays

    def _batch(self, tap: LayerTap, start: int, stop: int) -> tuple[Rows, dict[str, LayerInfo]]:
        published = set(published_layers(self.model))
        with evaluating(self.model, self.device):
            pictures = self.stimuli.read(start, stop)
            inputs = network_inputs(self.model, self.stimuli, pictures)
            values = tap(inputs.to(self.device, floating_dtype(self.model)))
        infos = {
            name: LayerInfo(name, tuple(value.shape[1:]), name in published) for name, value in values.items()
        }
        rows = {
            name: value.reshape(len(value), -1).to(torch.float32).numpy() for name, value in values.items()
        }
        return rows, infos
