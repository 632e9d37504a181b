"""Making the environment that AllenSDK needs, with nothing but Python 3.11 and PyPI."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mvkit.acquire.allen.environment import (
    ALLENSDK_VERSION,
    PYTHON_VERSION,
    STAMP_NAME,
    allensdk_version,
    default_folder,
    interpreter_of,
    read_stamp,
)
from mvkit.atomic import write_text
from mvkit.errors import FetchError, MissingPackageError
from mvkit.fetch import Feedback, holding
from mvkit.paths import OFFLINE_VARIABLE, is_offline

CONSTRAINTS = Path(__file__).with_name("allen-constraints.txt")
#: AllenSDK, and what the worker's part of mvkit imports besides.
REQUIREMENTS = (f"allensdk=={ALLENSDK_VERSION}", "filelock>=3.12", "requests>=2.31")

_PROBE_LIMIT_S = 30.0
_VERSION_PROBE = "import sys; print(*sys.version_info[:2])"
_IMPORT_PROBE = (
    "from allensdk.brain_observatory.ecephys.ecephys_project_cache import EcephysProjectCache\n"
    "from allensdk.core.brain_observatory_cache import BrainObservatoryCache\n"
)


@dataclass(frozen=True)
class Installed:
    """The environment that AllenSDK has.

    Attributes
    ----------
    folder
        Where it is.
    status
        What was done.
    version
        AllenSDK's version.
    """

    folder: Path
    status: Literal["already there", "installed"]
    version: str

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        return {
            "folder": str(self.folder),
            "python": str(interpreter_of(self.folder)),
            "status": self.status,
            "allensdk": self.version,
        }


def install_allensdk(
    folder: Path | None = None,
    *,
    home: Path | None = None,
    extras: Sequence[str] = (),
    force: bool = False,
    offline: bool = False,
    feedback: Feedback | None = None,
) -> Installed:
    """Make the environment, unless it is there; an interrupted installation is begun again.

    A second process waits for the first, then finds the environment there.

    Parameters
    ----------
    folder
        The environment's folder; None for ``HOME/allensdk``.
    home
        mvkit's home; None for the usual one.
    extras
        Further packages (tests need pytest).
    force
        Make it again even if it is there.
    offline
        Use no network; ``MVKIT_OFFLINE`` has the same effect.
    feedback
        Receives remarks.

    Raises
    ------
    FetchError
        Without a network, when the installation fails, or when ``folder`` holds something else.
    MissingPackageError
        Without a Python of the version that AllenSDK needs.
    """
    feedback = feedback or Feedback()
    folder = default_folder(home) if folder is None else folder.expanduser().absolute()
    wanted = {"inputs": _digest(extras), "allensdk": ALLENSDK_VERSION}
    with holding(folder, remark=feedback.remark), _outliving_lock(folder) as lock:
        if not force and read_stamp(folder) == wanted and allensdk_version(interpreter_of(folder)):
            return Installed(folder, "already there", ALLENSDK_VERSION)
        if offline or is_offline():
            raise FetchError(
                f"{folder}: AllenSDK is not installed there, and the network is forbidden (--offline or "
                f"{OFFLINE_VARIABLE})\nallow it, or do without AllenSDK: --sessions-from DIR --reader h5py"
            )
        _clear(folder)
        base = find_base_python()
        feedback.remark(f"installing AllenSDK {ALLENSDK_VERSION} into {folder} (some minutes the first time)")
        _create(base, folder, lock)
        _install(folder, extras, lock)
        _require_working(folder)
        write_text(folder / STAMP_NAME, json.dumps(wanted) + "\n")
    return Installed(folder, "installed", ALLENSDK_VERSION)


def find_base_python() -> Path:
    """Return a Python of the version that AllenSDK needs: this one, or ``python3.11`` on the PATH.

    Raises
    ------
    MissingPackageError
        If there is none; says how to get it.
    """
    name = "python{}.{}".format(*PYTHON_VERSION)
    candidates = [sys.executable, *filter(None, [shutil.which(name)])]
    for candidate in candidates:
        done = _run([candidate, "-c", _VERSION_PROBE], limit_s=_PROBE_LIMIT_S)
        if done is not None and done.stdout.split() == [str(number) for number in PYTHON_VERSION]:
            return Path(candidate)
    raise MissingPackageError(
        f"AllenSDK {ALLENSDK_VERSION} needs {name}; this is {sys.version.split()[0]}, the PATH has no other\n"
        f"install it (Debian, Ubuntu: apt-get install {name} {name}-venv; elsewhere: uv python install "
        "3.11), then run the same command"
    )


@contextmanager
def _outliving_lock(folder: Path) -> Iterator[int]:
    """Hold a lock that pip inherits: if this process is killed, pip goes on, and others must wait for it."""
    with folder.with_name(f"{folder.name}.installing").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _clear(folder: Path) -> None:
    """Remove what an interrupted or older installation left, and never anything else."""
    if not folder.exists():
        return
    is_environment = (folder / "pyvenv.cfg").exists() or (folder / STAMP_NAME).exists()
    if not is_environment and any(folder.iterdir()):
        raise FetchError(f"{folder}: exists and is no environment that mvkit made; name another folder")
    shutil.rmtree(folder)


def _create(base: Path, folder: Path, lock: int) -> None:
    # Debian's Python comes without ensurepip; the pip that installed mvkit can serve the new environment.
    options = ["--without-pip"] if _has_pip() else []
    done = _run([str(base), "-m", "venv", *options, str(folder)], lock=lock)
    if done is None or done.returncode:
        raise FetchError(
            f"{folder}: {base} could not make an environment there: {_last_line(done)}\n"
            "Debian, Ubuntu: apt-get install python3.11-venv, then run the same command"
        )


def _install(folder: Path, extras: Sequence[str], lock: int) -> None:
    python = str(interpreter_of(folder))
    pip = [sys.executable, "-m", "pip", "--python", python] if _has_pip() else [python, "-m", "pip"]
    options = ["--quiet", "--disable-pip-version-check", "--no-input", "--retries", "2"]
    done = _run(
        [*pip, "install", *options, "--constraint", str(CONSTRAINTS), *REQUIREMENTS, *extras], lock=lock
    )
    if done is None or done.returncode:
        raise FetchError(
            f"{folder}: pip could not install AllenSDK: {_last_line(done)}\n"
            "it needs PyPI and about 1.5 GB of disk; run the same command again, which begins anew"
        )


def _require_working(folder: Path) -> None:
    done = _run([str(interpreter_of(folder)), "-c", _IMPORT_PROBE])
    if done is None or done.returncode:
        raise FetchError(
            f"{folder}: AllenSDK was installed but does not import: {_last_line(done)}\n"
            "run the same command again, which begins anew; if it stays, report it"
        )


def _has_pip() -> bool:
    return importlib.util.find_spec("pip") is not None


def _digest(extras: Sequence[str]) -> str:
    text = CONSTRAINTS.read_text(encoding="utf-8") + "\n".join((*REQUIREMENTS, *extras))
    return hashlib.sha256(text.encode()).hexdigest()


def _run(
    command: Sequence[str], *, limit_s: float | None = None, lock: int | None = None
) -> subprocess.CompletedProcess[str] | None:
    # PYTHONPATH would lend the new environment the packages of this one.
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=limit_s,
            env=environment,
            pass_fds=() if lock is None else (lock,),
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def _last_line(done: subprocess.CompletedProcess[str] | None) -> str:
    if done is None:
        return "it could not be run"
    lines = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
    return next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
