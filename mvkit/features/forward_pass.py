"""One journey of all images through a network, begun with a look at what the first ones give.

The first batch says which layers there are, how wide they are and what the rest will need, before anything
else is done. The others follow. No image goes through twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mvkit.errors import DataError, UsageError
from mvkit.features.batching import batches_from, images_per_batch
from mvkit.features.featureset import FeatureOrigin, LayerInfo
from mvkit.features.inputs import describe_origin, network_inputs
from mvkit.features.modes import evaluating, floating_dtype, parse_device
from mvkit.features.scratch import IN_MEMORY_BYTES, feature_room
from mvkit.features.stimuli import ImagesDigest, Stimuli
from mvkit.features.stored_layer import StoredLayer
from mvkit.features.tapping import LayerTap, default_layers, layers_to_record, published_layers

logger = logging.getLogger(__name__)

#: What torch says on a processor; on a GPU it has an error of its own for it.
_NO_MEMORY = "can't allocate memory"

#: Called with (images done, images in total).
ProgressCallback = Callable[[int, int], None]
Rows = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class FirstLook:
    """What the first batch of images gives.

    Attributes
    ----------
    layers
        Layer -> its shape for one image, in the model's order; under final names (``name[0]``, ``name:key``).
    n_images
        How many images were shown: a full batch, unless there are fewer.
    """

    layers: Mapping[str, LayerInfo]
    n_images: int


class ForwardPass:
    """Images on their way through a network.

    Parameters
    ----------
    model
        The network.
    stimuli
        The images.
    layers
        Names, patterns or ``"published"``; None for the model's default list.
    batch_size
        Images per forward pass; None: as :mod:`mvkit.features.batching` says.
    device
        Where to compute.

    Raises
    ------
    UsageError
        If a layer is unknown or an argument out of range.
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
        network: Any = model
        if not isinstance(network, nn.Module):
            raise UsageError(
                f"a network is needed, not {type(model).__name__} {model!r}; mvkit.load_model(name) gives one"
            )
        self.model = model
        self.stimuli = stimuli
        #: As asked for.
        self.batch_size = batch_size
        self.device = parse_device(device)
        self._tap = LayerTap(model, layers_to_record(model, layers))
        self._size = self._images_per_batch()
        self._look: FirstLook | None = None
        self._digest = ImagesDigest()
        self._pending: Rows | None = None
        self._told: set[str] = set()

    @property
    def images_per_batch(self) -> int:
        """How many images go through together."""
        return self._size

    def look(self) -> FirstLook:
        """Show the first batch, once; later calls return what it gave.

        Raises
        ------
        UsageError
            If a layer cannot be recorded, or the images are of a wrong type.
        DataError
            If images cannot be read.
        """
        if self._look is None:
            values = self._first_batch()
            n_shown = min(self._size, len(self.stimuli.image_ids))
            default, published = set(default_layers(self.model)), set(published_layers(self.model))
            infos = {
                name: LayerInfo(name, tuple(value.shape[1:]), name in default, name in published)
                for name, value in values.items()
            }
            self._look = FirstLook(infos, n_shown)
            self._pending = self._flat(values)
        return self._look

    def first_rows(self) -> Rows:
        """Return what the first batch gave: layer -> float32 (n_images, n_features).

        It is let go when :meth:`run` has handed it on; asked for again after that, the batch is shown again.
        """
        self.look()
        if self._pending is None:
            self._pending = self._flat(self._first_batch())
        return self._pending

    def run(
        self,
        consume: Callable[[int, Rows], None],
        names: Sequence[str] | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> FeatureOrigin:
        """Hand every batch's features to ``consume(first row, layer -> rows)``, those of the look included.

        Parameters
        ----------
        consume
            Called in the order of the images; holds on to nothing if memory is to hold one batch only.
        names
            Layers, by the names of :attr:`FirstLook.layers`; None: all of them.
        progress
            Called after each batch.

        Returns
        -------
        FeatureOrigin
            Network, weights, images and versions.
        """
        look = self.look()
        wanted = list(look.layers) if names is None else list(names)
        is_all = wanted == list(look.layers)
        tap = self._tap if is_all else LayerTap(self.model, layers_to_record(self.model, wanted))
        n_images = len(self.stimuli.image_ids)
        first = self.first_rows()
        digest = self._digest.copy()
        self._pending = None
        consume(0, {name: first[name] for name in wanted})
        del first
        if progress is not None:
            progress(look.n_images, n_images)
        with evaluating(self.model, self.device), self._explaining_memory():
            for start, stop in batches_from(look.n_images, n_images, self._size):
                # Not bound to a name: it would live on while the next batch is on its way.
                consume(start, self._flat(tap(self._inputs(start, stop, digest))))
                if progress is not None:
                    progress(stop, n_images)
        return describe_origin(self.model, self.stimuli, digest.hexdigest())

    @contextmanager
    def features(
        self,
        names: Sequence[str],
        *,
        scratch: Path,
        progress: ProgressCallback | None = None,
        in_memory: int = IN_MEMORY_BYTES,
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
        in_memory
            Bytes of features that are held in memory at most.

        Yields
        ------
        mapping
            Layer -> float32 (n_images, n_features), an array or a :class:`StoredLayer`.

        Raises
        ------
        DataError
            If there is no room for the features; as :meth:`look`.
        """
        look = self.look()
        wanted = {name: look.layers[name] for name in names}
        with feature_room(wanted, len(self.stimuli.image_ids), scratch=scratch, in_memory=in_memory) as room:
            if wanted:
                self.run(room.write, names, progress=progress)
            yield room.features()

    def _images_per_batch(self) -> int:
        """Prepare one image, to know how large inputs are."""
        one = network_inputs(self.model, self.stimuli, self.stimuli.read(0, 1))
        return images_per_batch(self.batch_size, one.shape[1:])

    def _first_batch(self) -> dict[str, Tensor]:
        self._digest = ImagesDigest()
        with evaluating(self.model, self.device), self._explaining_memory():
            return self._tap(self._inputs(0, min(self._size, len(self.stimuli.image_ids)), self._digest))

    def _inputs(self, start: int, stop: int, digest: ImagesDigest) -> Tensor:
        pictures = self.stimuli.read(start, stop)
        digest.update(pictures)
        inputs = network_inputs(self.model, self.stimuli, pictures)
        return inputs.to(self.device, floating_dtype(self.model))

    def _flat(self, values: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
        rows = {
            name: value.reshape(len(value), -1).to(torch.float32).numpy() for name, value in values.items()
        }
        for name, row in rows.items():
            if name not in self._told and not np.isfinite(row).all():
                self._told.add(name)
                logger.warning(
                    "layer '%s': values that are not finite (the network overflows or holds NaN)", name
                )
        return rows

    @contextmanager
    def _explaining_memory(self) -> Iterator[None]:
        """Turn torch's and numpy's refusals of memory into an error of two lines."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            reason = (str(error).splitlines() or [""])[0]
            if not isinstance(error, MemoryError | torch.OutOfMemoryError) and _NO_MEMORY not in reason:
                raise
            raise DataError(
                f"a batch of {self._size} images does not fit in memory with these layers ({reason})\n"
                "give --batch-size 1, or fewer layers (--layers)"
            ) from error
