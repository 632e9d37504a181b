"""The Python environment with AllenSDK: found or installed, and asked through a script.

AllenSDK 2.16.2 needs Python 3.11, numpy 1 and pandas 1, so it usually has an environment beside mvkit's, in
which only :mod:`mvkit.allen.sdk` runs. Searched in this order: ``$MVKIT_ALLEN_PYTHON``, this interpreter,
``HOME/allensdk`` (``mvkit fetch allensdk``), ``.venv-allen`` in a checkout (``make allen``).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mvkit.errors import FetchError, MissingPackageError, UsageError
from mvkit.fetch.download import Feedback
from mvkit.files import file_lock, write_text
from mvkit.paths import OFFLINE_VARIABLE, expand, home_dir, is_offline

LOGGER = logging.getLogger(__name__)

SCRIPT = Path(__file__).with_name("sdk.py")
INTERPRETER_VARIABLE = "MVKIT_ALLEN_PYTHON"
ALLENSDK_VERSION = "2.16.2"
#: Every package with the digests of its files (``make lock``): first what the second is built with.
LOCKS = (Path(__file__).with_name("allen-build-lock.txt"), Path(__file__).with_name("allen-lock.txt"))
#: The only Python that both AllenSDK and mvkit run on.
PYTHON_VERSION = (3, 11)
#: Written last, so an environment without it was never finished.
STAMP_NAME = "mvkit-installed.json"
#: Folder that holds the package ``mvkit`` itself: a checkout, or ``site-packages``.
PACKAGE_PARENT = Path(__file__).parents[2]

_CHECKOUT_ENVIRONMENT = ".venv-allen"
_ALLENSDK_VERSION = "import importlib.metadata as m; print(m.version('allensdk'))"
_PYTHON_VERSION = "import sys; print(*sys.version_info[:2])"
_IMPORT_ALLENSDK = (
    "from allensdk.brain_observatory.ecephys.ecephys_project_cache import EcephysProjectCache\n"
    "from allensdk.core.brain_observatory_cache import BrainObservatoryCache\n"
)
_LIMIT_S = 60.0


@dataclass(frozen=True)
class AllenPython:
    """An interpreter that can import AllenSDK.

    Attributes
    ----------
    path
        The interpreter.
    version
        AllenSDK's version in it.
    """

    path: Path
    version: str


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
        When there is none; the message has the commands with and without it.
    """
    chosen = os.environ.get(INTERPRETER_VARIABLE)
    if chosen:
        path = expand(chosen).absolute()
        version = allensdk_version(path)
        if version is None:
            raise UsageError(f"{INTERPRETER_VARIABLE}={chosen}: not a Python with AllenSDK")
        return AllenPython(path, version)
    candidates = []
    if importlib.util.find_spec("allensdk") is not None:
        candidates.append(Path(sys.executable))
    folders = [default_folder(home)]
    if (PACKAGE_PARENT / "pyproject.toml").exists():
        folders.append(PACKAGE_PARENT / _CHECKOUT_ENVIRONMENT)
    candidates += [interpreter_of(folder) for folder in folders if is_finished(folder)]
    for path in candidates:
        version = allensdk_version(path)
        if version is not None:
            return AllenPython(path, version)
    raise MissingPackageError(
        "AllenSDK is not installed: `mvkit fetch allensdk` (in a checkout: `make allen`) makes an "
        "environment for it\nsession files that are on disk already need none: --sessions-from DIR"
    )


def ask_allensdk(
    python: AllenPython,
    arguments: Sequence[str],
    *,
    about: str,
    log: Callable[[str], object] = LOGGER.info,
) -> list[dict[str, Any]]:
    """Run :mod:`mvkit.allen.sdk` in a process of its own and return the rows of its answer.

    Parameters
    ----------
    python
        Where AllenSDK is.
    arguments
        As the script's docstring says.
    about
        What is asked for, for messages.
    log
        Receives the script's progress.

    Raises
    ------
    FetchError
        The script's own error, or the last line that it wrote when it died.
    """
    rows: list[dict[str, Any]] = []
    error, is_complete = "", False
    with tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace") as stderr:
        try:
            # -I ignores PYTHONPATH and the script's folder, which hold newer packages.
            process = subprocess.Popen(
                [str(python.path), "-I", str(SCRIPT), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        except OSError as failure:
            raise FetchError(f"{python.path}: cannot be run ({failure.strerror or failure})") from failure
        with process:
            try:
                for line in process.stdout or ():
                    row = _row(line)
                    if row is None:
                        continue
                    if "progress" in row:
                        log(row["progress"])
                    elif "error" in row:
                        error = str(row["error"])
                    elif "done" in row:
                        is_complete = True
                    else:
                        rows.append(row)
            except BaseException:
                # Interrupted: the child must not go on alone.
                process.kill()
                raise
        stderr.seek(0)
        output = stderr.read()
    LOGGER.debug("%s: AllenSDK wrote: %s", about, output)
    if error:
        raise FetchError(f"{error}\nwhat was fetched is kept: run the same command again")
    if not is_complete:
        raise FetchError(f"{about}: AllenSDK failed: {_failure(output, process.returncode)}")
    return rows


@dataclass(frozen=True)
class Installed:
    """The environment that AllenSDK has.

    Attributes
    ----------
    folder
        Where it is.
    status
        Whether it was installed now.
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
    force: bool = False,
    offline: bool = False,
    feedback: Feedback | None = None,
) -> Installed:
    """Make the environment, unless it is there; an interrupted installation is begun again.

    A second process waits for the first, then uses its environment.

    Parameters
    ----------
    folder
        The environment's folder; None for ``HOME/allensdk``.
    home
        mvkit's home; None for the usual one.
    force
        Make it again even if it is there.
    offline
        Use no network; ``MVKIT_OFFLINE`` has the same effect.
    feedback
        Receives messages.

    Raises
    ------
    FetchError
        Without a network, when the installation fails, or when ``folder`` holds something else.
    MissingPackageError
        Without a Python of the version that AllenSDK needs.
    """
    feedback = feedback or Feedback()
    folder = default_folder(home) if folder is None else expand(folder).absolute()
    stamp = {"inputs": _digest(), "allensdk": ALLENSDK_VERSION}
    with file_lock(folder, log=feedback.log):
        if not force and _read_stamp(folder) == stamp and allensdk_version(interpreter_of(folder)):
            return Installed(folder, "already there", ALLENSDK_VERSION)
        if offline or is_offline():
            raise FetchError(
                f"{folder}: AllenSDK is not installed there, and the network is forbidden (--offline or "
                f"{OFFLINE_VARIABLE})\nallow it, or do without AllenSDK: --sessions-from DIR"
            )
        _remove_environment(folder)
        python = find_base_python()
        feedback.log(f"installing AllenSDK {ALLENSDK_VERSION} into {folder} (some minutes the first time)")
        _make_environment(python, folder)
        write_text(folder / STAMP_NAME, json.dumps(stamp) + "\n")
    return Installed(folder, "installed", ALLENSDK_VERSION)


def default_folder(home: Path | None = None) -> Path:
    """Return where ``mvkit fetch allensdk`` puts the environment."""
    return home_dir(home) / "allensdk"


def interpreter_of(folder: Path) -> Path:
    """Return the interpreter of a virtual environment."""
    return folder / "bin" / "python"


def is_finished(folder: Path) -> bool:
    """Tell whether the installation into ``folder`` was completed."""
    return bool(_read_stamp(folder)) and interpreter_of(folder).exists()


def allensdk_version(python: Path) -> str | None:
    """Return the version of AllenSDK that an interpreter has installed; None if there is none."""
    done = _run([str(python), "-I", "-c", _ALLENSDK_VERSION], limit_s=_LIMIT_S)
    return done.stdout.strip() or None if done is not None and done.returncode == 0 else None


def _row(line: str) -> dict[str, Any] | None:
    """Return the object of a line; None for the output of a library, or a truncated line."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _failure(output: str, code: int) -> str:
    if code == -signal.SIGKILL:
        return "its process was killed (out of memory?)"
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"exit code {code}"


def find_base_python() -> Path:
    """Return a Python of the version that AllenSDK needs: this one, or ``python3.11`` on the PATH.

    Raises
    ------
    MissingPackageError
        If there is none; says how to get it.
    """
    name = "python{}.{}".format(*PYTHON_VERSION)
    for candidate in [sys.executable, *filter(None, [shutil.which(name)])]:
        done = _run([candidate, "-c", _PYTHON_VERSION], limit_s=_LIMIT_S)
        if done is not None and done.stdout.split() == [str(number) for number in PYTHON_VERSION]:
            return Path(candidate)
    raise MissingPackageError(
        f"AllenSDK {ALLENSDK_VERSION} needs {name}; this is {sys.version.split()[0]}, the PATH has no other\n"
        f"install it (Debian, Ubuntu: apt-get install {name} {name}-venv; elsewhere: uv python install "
        "3.11), then run the same command"
    )


def _make_environment(python: Path, folder: Path) -> None:
    has_pip = importlib.util.find_spec("pip") is not None
    interpreter = str(interpreter_of(folder))
    # Debian's Python comes without ensurepip; the pip that installed mvkit can serve the new environment.
    options = ["--without-pip"] if has_pip else []
    done = _run([str(python), "-m", "venv", *options, str(folder)])
    if done is None or done.returncode:
        raise FetchError(
            f"{folder}: {python} could not make an environment there: {_last_line(done)}\n"
            "Debian, Ubuntu: apt-get install python3.11-venv, then run the same command"
        )
    pip = [sys.executable, "-m", "pip", "--python", interpreter] if has_pip else [interpreter, "-m", "pip"]
    options = ["--quiet", "--disable-pip-version-check", "--no-input", "--retries", "2"]
    locked = ["--require-hashes", "--no-deps", "--no-build-isolation", "--requirement"]
    for lock in LOCKS:
        done = _run([*pip, "install", *options, *locked, str(lock)])
        if done is None or done.returncode:
            raise FetchError(
                f"{folder}: pip could not install AllenSDK: {_last_line(done)}\n"
                "it needs PyPI and about 1.5 GB of disk; run the same command again, which begins anew"
            )
    done = _run([interpreter, "-c", _IMPORT_ALLENSDK])
    if done is None or done.returncode:
        raise FetchError(
            f"{folder}: AllenSDK was installed but does not import: {_last_line(done)}\n"
            "run the same command again, which begins anew; if it stays, report it"
        )


def _remove_environment(folder: Path) -> None:
    """Remove an interrupted or older installation; FetchError for any other folder."""
    if not folder.exists():
        return
    is_environment = (folder / "pyvenv.cfg").exists() or (folder / STAMP_NAME).exists()
    if not is_environment and any(folder.iterdir()):
        raise FetchError(f"{folder}: exists and is no environment that mvkit made; name another folder")
    # The pip of a process that was killed may still be writing there.
    shutil.rmtree(folder, ignore_errors=True)


def _read_stamp(folder: Path) -> dict[str, object]:
    """Return the stamp of the last complete installation into ``folder``, or {}."""
    try:
        stamp = json.loads((folder / STAMP_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _digest() -> str:
    return hashlib.sha256(b"".join(lock.read_bytes() for lock in LOCKS)).hexdigest()


def _run(command: Sequence[str], *, limit_s: float | None = None) -> subprocess.CompletedProcess[str] | None:
    # PYTHONPATH would add the packages of this environment to the new one, the folder the user's files.
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    environment["PYTHONSAFEPATH"] = "1"
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=limit_s,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def _last_line(done: subprocess.CompletedProcess[str] | None) -> str:
    if done is None:
        return "it could not be run"
    lines = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
    return next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
