"""placeholder"""

from pathlib import Path

from mvkit.models.base import VisionModel


def read_weights(model: VisionModel, path: Path) -> str:
    raise NotImplementedError
