"""Folders and files in mvkit's home.

The home is, in this order: the ``home`` argument (``--home``), the environment
variable ``MVKIT_HOME``, the platform's user data directory.
"""

from __future__ import annotations

import os
from pathlib import Path

HOME_VARIABLE = "MVKIT_HOME"
OFFLINE_VARIABLE = "MVKIT_OFFLINE"


def home_dir(home: Path | None = None) -> Path:
    """Return mvkit's home directory; it need not exist yet."""
    if home is not None:
        return home.expanduser().absolute()
    chosen = os.environ.get(HOME_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_data_path

    return user_data_path("mvkit")


def checkpoint_dir(home: Path | None = None) -> Path:
    """Return the directory of fetched checkpoints (``NAME.pt``)."""
    return home_dir(home) / "checkpoints"


def neural_dir(home: Path | None = None) -> Path:
    """Return the directory of neural files (``DATASET.h5``)."""
    return home_dir(home) / "neural"


def images_dir(name: str, home: Path | None = None) -> Path:
    """Return the directory of the image files that the prep recipe ``name`` made (``SPLIT.beton``)."""
    return home_dir(home) / "images" / name


def ceilings_dir(home: Path | None = None) -> Path:
    """Return the directory of cached ceilings between animals."""
    return home_dir(home) / "ceilings"


def cache_dir(home: Path | None = None) -> Path:
    """Return the directory of cached features and scores."""
    return home_dir(home) / "cache"


def scratch_dir(home: Path | None = None) -> Path:
    """Return the directory of temporary features that do not fit in memory."""
    return cache_dir(home) / "scratch"


def checkpoint_path(name: str, home: Path | None = None) -> Path:
    """Return the path of the fetched checkpoint of a released model."""
    return checkpoint_dir(home) / f"{name}.pt"


def neural_path(dataset: str, home: Path | None = None) -> Path:
    """Return the path of the neural file of a published dataset."""
    return neural_dir(home) / f"{dataset}.h5"


def is_offline() -> bool:
    """Tell whether ``MVKIT_OFFLINE`` forbids the network."""
    return os.environ.get(OFFLINE_VARIABLE, "").strip().lower() not in ("", "0", "false", "no")
