"""Inner products between images formed on a device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class DeviceProducts:
    """Forms ``block @ block.T`` on a device in float64; scoring takes it in the place of numpy.

    See :class:`mvkit.scoring.gram.GramMatrix`. Products differ from numpy's by float64 rounding.
    A device without float64 (Apple's) cannot serve.

    Attributes
    ----------
    device
        "cuda", "cuda:1", "cpu", ...
    """

    device: str

    def __call__(self, block: NDArray[np.float64], /) -> NDArray[np.float64]:
        """Return float64 (n_images, n_images) for a block, float64 (n_images, n_features)."""
        values = torch.from_numpy(block).to(self.device)
        with torch.inference_mode():
            products: NDArray[np.float64] = (values @ values.T).cpu().numpy()
        return products
