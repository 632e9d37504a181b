"""Where AllenSDK lives: in this interpreter, or in an environment of its own.

AllenSDK 2.16.2 needs Python 3.11, numpy 1 and pandas 1, so it usually has an environment beside mvkit's, in
which only :mod:`mvkit.acquire.allen.worker` runs. Looked for in this order: ``$MVKIT_ALLEN_PYTHON``, this
interpreter, ``HOME/allensdk`` (``mvkit fetch allensdk``), ``.venv-allen`` in a checkout (``make allen``).
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mvkit.errors import MissingPackageError, UsageError
from mvkit.paths import home_dir

INTERPRETER_VARIABLE = "MVKIT_ALLEN_PYTHON"
ALLENSDK_VERSION = "2.16.2"
#: The only Python that both AllenSDK and mvkit run on.
PYTHON_VERSION = (3, 11)
#: Written last, so an environment without it was never finished.
STAMP_NAME = "mvkit-installed.json"
#: Folder that holds the package ``mvkit`` itself: a checkout, or ``site-packages``.
PACKAGE_PARENT = Path(__file__).parents[3]

_CHECKOUT_ENVIRONMENT = ".venv-allen"
_PROBE = "import importlib.metadata as m; print(m.version('allensdk'))"
_PROBE_LIMIT_S = 60.0


@dataclass(frozen=True)
class AllenPython:
    """An interpreter that can import AllenSDK.

    Attributes
    ----------
    path
        The interpreter.
    version
        AllenSDK's version in it.
    found_by
        Why this one: the variable, or the place.
    """

    path: Path
    version: str
    found_by: str


def find_allen_python(home: Path | None = None) -> AllenPython:
    """Find an interpreter that can import AllenSDK.

    Parameters
    ----------
    home
        mvkit's home; None for the usual one.

    Raises
    ------
    UsageError
        When ``$MVKIT_ALLEN_PYTHON`` names something that cannot.
    MissingPackageError
        When there is none; says how to get one, and how to do without.
    """
    chosen = os.environ.get(INTERPRETER_VARIABLE)
    if chosen:
        path = Path(chosen).expanduser().absolute()
        version = allensdk_version(path)
        if version is None:
            raise UsageError(f"{INTERPRETER_VARIABLE}={chosen}: is no Python that has AllenSDK")
        return AllenPython(path, version, INTERPRETER_VARIABLE)
    if importlib.util.find_spec("allensdk") is not None:
        version = allensdk_version(Path(sys.executable))
        if version is not None:
            return AllenPython(Path(sys.executable), version, "this interpreter")
    for folder in _own_folders(home):
        if is_finished(folder):
            path = interpreter_of(folder)
            version = allensdk_version(path)
            if version is not None:
                return AllenPython(path, version, str(folder))
    raise MissingPackageError(
        "AllenSDK is not installed: `mvkit fetch allensdk` (in a checkout: `make allen`) makes a place "
        "for it\nsession files that are on disk already need none: --sessions-from DIR --reader h5py"
    )


def default_folder(home: Path | None = None) -> Path:
    """Return where ``mvkit fetch allensdk`` puts the environment."""
    return home_dir(home) / "allensdk"


def interpreter_of(folder: Path) -> Path:
    """Return the interpreter of a virtual environment."""
    return folder / "bin" / "python"


def is_finished(folder: Path) -> bool:
    """Tell whether the installation into ``folder`` came to its end."""
    return bool(read_stamp(folder)) and interpreter_of(folder).exists()


def read_stamp(folder: Path) -> dict[str, object]:
    """Return what the last finished installation into ``folder`` noted, or nothing."""
    try:
        noted = json.loads((folder / STAMP_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def allensdk_version(python: Path) -> str | None:
    """Return the version of AllenSDK that an interpreter has installed; None if there is none."""
    try:
        done = subprocess.run(
            [str(python), "-c", _PROBE], capture_output=True, text=True, check=False, timeout=_PROBE_LIMIT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _own_folders(home: Path | None) -> list[Path]:
    folders = [default_folder(home)]
    if (PACKAGE_PARENT / "pyproject.toml").exists():
        folders.append(PACKAGE_PARENT / _CHECKOUT_ENVIRONMENT)
    return folders
