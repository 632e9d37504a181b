"""What loaders yield and what objectives receive."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class RawBatch:
    """Cropped images as a loader yields them, on the CPU.

    Attributes
    ----------
    crops
        One tensor for every crop that was asked for: uint8 (n_images, side, side, 3), RGB.
    index
        int64 (n_images,): positions in the source; keys of everything that is drawn at random.
    label
        int64 (n_images,), or None where the source has no labels.
    depth
        float32 (n_images, 1, side, side), cropped as the first crop, or None.
    """

    crops: tuple[Tensor, ...]
    index: Tensor
    label: Tensor | None = None
    depth: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """What an objective receives, on the device.

    Attributes
    ----------
    views
        float32 (n_images, 3, side, side) each, normalised. Two views of an
        image for most self-supervised objectives; the four rotations for
        RotNet (0, 90, 180, 270 degrees); the centre patch and its eight
        neighbours in reading order for relative location.
    index
        int64 (n_images,).
    label
        int64 (n_images,) or None.
    target
        What else the objective predicts: depth, float32 (n_images, 1, side, side); or None.
    """

    views: tuple[Tensor, ...]
    index: Tensor
    label: Tensor | None = None
    target: Tensor | None = None

    def rows(self, first: int, last: int) -> Batch:
        """Return images ``first`` to ``last`` (excluded)."""
        part = slice(first, last)
        return Batch(
            views=tuple(view[part] for view in self.views),
            index=self.index[part],
            label=None if self.label is None else self.label[part],
            target=None if self.target is None else self.target[part],
        )
