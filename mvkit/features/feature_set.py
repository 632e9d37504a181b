"""Features of one network for one set of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mvkit.display import html_table
from mvkit.files import shorten

#: Layers that one line about features has room for.
_MOST_LAYERS = 10

#: Frame numbers of a dataset, or file names of a folder.
ImageIds = tuple[int, ...] | tuple[str, ...]


@dataclass(frozen=True)
class LayerInfo:
    """What a layer gives for the images at hand.

    Parameters
    ----------
    name
        Layer name.
    shape
        Shape for one image, before flattening.
    is_default
        Whether the layer is taken if none is asked for.
    is_published
        Whether the layer is in the model's published list, mostly the same.
    parts
        Of a joined layer, the layers it is made of; else empty.
    """

    name: str
    shape: tuple[int, ...]
    is_default: bool = False
    is_published: bool = False
    parts: tuple[str, ...] = ()

    @property
    def n_features(self) -> int:
        """Number of values for one image."""
        return int(np.prod(self.shape, dtype=np.int64))

    def n_bytes(self, n_images: int = 1) -> int:
        """Bytes that float32 features of so many images take.

        Parameters
        ----------
        n_images
            Number of images.

        Returns
        -------
        int
            Bytes.
        """
        return self.n_features * n_images * np.dtype(np.float32).itemsize

    def to_json(self) -> dict[str, object]:
        """Return the row as plain data."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "n_features": self.n_features,
            "bytes_per_image": self.n_bytes(),
            "default": self.is_default,
            "published": self.is_published,
            **({"parts": list(self.parts)} if self.parts else {}),
        }


@dataclass(frozen=True)
class FeatureProvenance:
    """Where features come from.

    Parameters
    ----------
    model_name
        Name of the network.
    weights_id
        Identity of its weights: sha256 of the checkpoint, "random:seed=0", or a digest of the state dict.
    preprocessing
        How images became inputs; empty when the caller prepared them.
    stimuli
        Name of the dataset or folder; "array" for an array.
    stimuli_digest
        sha256 over the images (shapes and values), in order.
    image_ids
        One entry per image, in the order of the rows.
    versions
        Versions of mvkit, torch and numpy that computed them.
    """

    model_name: str
    weights_id: str
    preprocessing: Mapping[str, object]
    stimuli: str
    stimuli_digest: str
    image_ids: ImageIds
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, repr=False)
class FeatureSet(Mapping[str, NDArray[np.float32]]):
    """Layer name -> float32 (n_images, n_features), in the model's order.

    Parameters
    ----------
    arrays
        Layer -> float32 (n_images, n_features); may read from a file on access.
    shapes
        Layer name -> shape of one image's output before it was flattened in C order.
    provenance
        Network, weights, images and versions.
    """

    arrays: Mapping[str, NDArray[np.float32]]
    shapes: Mapping[str, tuple[int, ...]]
    provenance: FeatureProvenance

    # A mapping compares its values, which arrays refuse; two sets are equal if they are the same one.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __getitem__(self, layer: str) -> NDArray[np.float32]:
        """Return the features of a layer."""
        return self.arrays[layer]

    def __iter__(self) -> Iterator[str]:
        """Iterate over layer names."""
        return iter(self.arrays)

    def __len__(self) -> int:
        """Return the number of layers."""
        return len(self.arrays)

    def __repr__(self) -> str:
        """Describe the set in one line; of many layers, the first and last."""
        texts = [f"{shorten(name, 40)}: {int(np.prod(shape))}" for name, shape in self.shapes.items()]
        if len(texts) > _MOST_LAYERS:
            half = _MOST_LAYERS // 2
            texts = [*texts[:half], f"... {len(texts) - 2 * half} more ...", *texts[-half:]]
        name = shorten(self.model_name, 80)
        return f"FeatureSet({name}, {self.n_images} images, {{{', '.join(texts)}}})"

    def _repr_html_(self) -> str:
        """Return a small table for notebooks: shape and number of features by layer."""
        rows = [
            (name, " x ".join(map(str, shape)), int(np.prod(shape, dtype=np.int64)))
            for name, shape in self.shapes.items()
        ]
        title = f"{self.model_name}: features of {self.n_images} images ({self.provenance.stimuli})"
        return html_table(
            title, ("layer", "shape", "features"), rows, note=f"weights: {shorten(self.weights_id, 40)}"
        )

    @property
    def layers(self) -> tuple[str, ...]:
        """Layer names, in the model's order."""
        return tuple(self.arrays)

    @property
    def n_images(self) -> int:
        """Number of images (rows)."""
        return len(self.provenance.image_ids)

    @property
    def image_ids(self) -> ImageIds:
        """One id per row: frame numbers or file names."""
        return self.provenance.image_ids

    @property
    def model_name(self) -> str:
        """Name of the network."""
        return self.provenance.model_name

    @property
    def weights_id(self) -> str:
        """Identity of the weights."""
        return self.provenance.weights_id

    @property
    def preprocessing(self) -> Mapping[str, object]:
        """How images became inputs."""
        return self.provenance.preprocessing

    def shape_of(self, layer: str) -> tuple[int, ...]:
        """Return the shape of one image's output before flattening.

        Parameters
        ----------
        layer
            Its name.
        """
        return self.shapes[layer]
