"""Folders and files in mvkit's home.

The home is, in this order: the ``home`` argument (``--home``), the environment
variable ``MVKIT_HOME``, the user's data directory (``~/.local/share/mvkit``).
"""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path

from mvkit.errors import DataError, UsageError, suggest
from mvkit.files import inspect_file

#: Recordings that have a name.
DATASETS = ("neuropixels", "calcium", "simulated")
#: Dataset and stimuli when none are named: the published ones if they were fetched, else the simulated ones.
PREFERRED_DATASET, FALLBACK_DATASET = "neuropixels", "simulated"

#: Files of other programs, of which `mvkit fetch neural --from` makes neural files.
_OTHER_ENDINGS = (".npy", ".npz", ".mat", ".csv", ".tsv", ".parquet", ".nwb")
_PICKLE_ENDINGS = (".pkl", ".pkl.gz", ".pkl.xz", ".pickle")
_FILE_ENDINGS = (".h5", ".hdf5", ".nc", ".nc4")

HOME_VARIABLE = "MVKIT_HOME"
OFFLINE_VARIABLE = "MVKIT_OFFLINE"


def home_dir(home: Path | None = None) -> Path:
    """Return mvkit's home directory; it need not exist yet.

    Raises
    ------
    UsageError
        If nothing says where it is, or it is that of an unknown user.
    """
    chosen = home or os.environ.get(HOME_VARIABLE)
    if chosen:
        return expand(chosen).absolute()
    # The XDG specification has relative paths ignored.
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    if not data.is_absolute():
        user = _user_folder("")
        if user is None:
            raise UsageError(
                "no home directory is known: HOME is not set, and the user has no name\n"
                f"say where mvkit keeps its files: --home DIR, or set {HOME_VARIABLE}"
            )
        data = user / (".local/share" if sys.platform != "darwin" else "Library/Application Support")
    return data / "mvkit"


def expand(path: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` and ``~name`` at its beginning replaced, which shells leave after ``=``.

    Raises
    ------
    UsageError
        If there is no such user, and no file of that name.
    """
    given = Path(path)
    first = given.parts[0] if given.parts else ""
    if not first.startswith("~"):
        return given
    folder = _user_folder(first[1:])
    if folder is not None:
        return folder.joinpath(*given.parts[1:])
    if os.path.lexists(given):
        return given
    reason = f"there is no user '{first[1:]}'" if first != "~" else "no home directory is known"
    raise UsageError(
        f"{given}: no such file or folder ({reason})\nif its name does begin with ~: {given.absolute()}"
    )


def _user_folder(user: str) -> Path | None:
    """Return the home directory of a user, "" for this one; None if it is not known."""
    if not user and (folder := Path(os.environ.get("HOME", ""))).is_absolute():
        return folder
    try:
        return Path((pwd.getpwnam(user) if user else pwd.getpwuid(os.getuid())).pw_dir)
    except (KeyError, ValueError):
        return None


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


def default_dataset(home: Path | None = None) -> str:
    """Return the dataset when none is named: neuropixels if it was fetched, else simulated."""
    return PREFERRED_DATASET if neural_path(PREFERRED_DATASET, home).is_file() else FALLBACK_DATASET


def is_fetched(dataset: str, home: Path | None = None) -> bool:
    """Tell whether there is a neural file of that name, such as ``neuropixels_natural_movie_one``."""
    # A text that no file can be named by is an error of Path.is_file.
    return "/" not in dataset and os.path.isfile(neural_path(dataset, home))  # noqa: PTH113


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
    path = expand(name_or_path)
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
        if "://" in text:
            raise DataError(f"{text}: an address\ndownload the file, and name it")
        if os.path.lexists(path):
            # A link to nothing, a pipe.
            raise DataError(f"{path}: {inspect_file(path).problem}")
        raise DataError(f"{path}: no such neural file{_near_file(path)}")
    if is_fetched(text, home):
        return neural_path(text, home)
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
