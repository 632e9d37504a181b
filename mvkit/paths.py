"""Folders and files in mvkit's home.

The home is, in this order: the ``home`` argument (``--home``), the environment
variable ``MVKIT_HOME``, the platform's user data directory.
"""

from __future__ import annotations

import os
from pathlib import Path

from mvkit.errors import DataError, UsageError, suggest

#: Recordings that have a name.
DATASETS = ("neuropixels", "calcium", "simulated")

#: Files of other programs, of which `mvkit fetch neural --from` makes neural files.
_OTHER_ENDINGS = (".npy", ".npz", ".mat", ".csv", ".tsv", ".parquet", ".nwb")
_PICKLE_ENDINGS = (".pkl", ".pkl.gz", ".pkl.xz", ".pickle")
_FILE_ENDINGS = (".h5", ".hdf5", ".nc", ".nc4")

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


def crashes_dir(home: Path | None = None) -> Path:
    """Return the directory of saved tracebacks of exceptions that nobody expected."""
    return home_dir(home) / "crashes"


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


def locate_dataset(name_or_path: str | Path, home: Path | None = None) -> Path | None:
    """Return the neural file of a dataset's name or path; None of ``simulated``, which needs none.

    Raises
    ------
    UsageError
        If there is no dataset of that name.
    DataError
        If the file is not there, or is a pickle.
    """
    if isinstance(name_or_path, str) and name_or_path in DATASETS:
        path = neural_path(name_or_path, home)
        if path.is_file():
            return path
        if name_or_path == "simulated":
            return None
        raise DataError(
            f"dataset '{name_or_path}' is not on this machine: {path}\n"
            f"run: mvkit fetch neural --dataset {name_or_path}"
        )
    path = Path(name_or_path).expanduser()
    text = str(name_or_path)
    if path.is_file():
        if text.lower().endswith(_PICKLE_ENDINGS):
            raise DataError(
                f"{path}: a pickle is not opened as a dataset\n"
                f"convert it: mvkit fetch neural --dataset neuropixels|calcium --from {path}"
            )
        if text.lower().endswith(_OTHER_ENDINGS):
            raise DataError(
                f"{path}: not a neural file\n"
                f"make one of it: mvkit fetch neural --from {path} --out {path.stem}.h5"
            )
        return path
    if path.is_dir():
        raise DataError(f"{path}: a directory, not a neural file")
    if isinstance(name_or_path, Path) or "/" in text or text.lower().endswith(_FILE_ENDINGS):
        raise DataError(f"{path}: no such neural file{_near_file(path)}")
    raise UsageError(
        f"unknown dataset '{text}'{suggest(text, DATASETS)}\n"
        f"valid: {', '.join(DATASETS)}, or the path of a neural file"
    )


def _near_file(path: Path) -> str:
    """Return where a file was looked for, and the file there whose name is like it."""
    folder = path.absolute().parent
    if not folder.is_dir():
        return f" (there is no folder {folder})"
    names = [other.name for other in folder.iterdir() if other.suffix == path.suffix]
    return f" in {folder}{suggest(path.name, names)}"


def is_offline() -> bool:
    """Tell whether ``MVKIT_OFFLINE`` forbids the network."""
    return os.environ.get(OFFLINE_VARIABLE, "").strip().lower() not in ("", "0", "false", "no")
