"""Sessions that the Allen Institute offers: listed by AllenSDK, downloaded by mvkit, read with h5py.

Files go to where AllenSDK's cache looks for them, resumed after interruptions and checked; AllenSDK would
stream them into place, where a kill leaves a torn one.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mvkit.allen.calcium import CalciumReader
from mvkit.allen.environment import AllenPython, find_allen_python
from mvkit.allen.folder import TEMPLATES
from mvkit.allen.neuropixels import NeuropixelsReader
from mvkit.allen.request import NEUROPIXELS, SessionRequest
from mvkit.allen.session import SessionReader, SessionRecording, SessionSource
from mvkit.errors import FetchError, UsageError
from mvkit.fetch.manifest import ContentCheck, FileToFetch
from mvkit.fetch.run import FetchRequest, PlannedStep, fetch_file, plan_files
from mvkit.machine import installed_versions
from mvkit.paths import home_dir

LOGGER = logging.getLogger(__name__)

#: Address of a mirror of the warehouse (``http://host:port``).
WAREHOUSE_VARIABLE = "MVKIT_ALLEN_URL"
SCRIPT = Path(__file__).with_name("sdk.py")
NWB = ContentCheck("an NWB (HDF5) file", (b"\x89HDF\r\n\x1a\n",))
TIFF = ContentCheck("a TIFF image", (b"II*\0", b"MM\0*"))


def open_folder(folder: Path, request: SessionRequest) -> SessionReader:
    """Return the reader of a folder of session files."""
    if request.dataset == NEUROPIXELS:
        return NeuropixelsReader(folder)
    return CalciumReader(folder, request)


def cache_folder(dataset: str, home: Path | None = None) -> Path:
    """Return the folder of AllenSDK's cache; its manifest and everything it fetches lie there."""
    return home_dir(home) / "allensdk-cache" / dataset


class DownloadingReader:
    """Downloads sessions into AllenSDK's cache under mvkit's home, and reads them there.

    Parameters
    ----------
    request
        The dataset, and which areas and stimulus imaging experiments must have.
    fetch
        Home, network, retries and feedback.
    """

    def __init__(self, request: SessionRequest, fetch: FetchRequest) -> None:
        self.cache = cache_folder(request.dataset, fetch.home)
        self._request = request
        # What was downloaded is never downloaded again, also when the neural file is made again.
        self._fetch = replace(fetch, force=False)
        self._is_neuropixels = request.dataset == NEUROPIXELS
        self._reader = open_folder(self.cache, request)

    @property
    def provenance(self) -> Mapping[str, object]:
        """The warehouse asked, and the versions that list and read."""
        return {
            "warehouse": os.environ.get(WAREHOUSE_VARIABLE, "Allen Brain Atlas data warehouse"),
            "versions": {**installed_versions("h5py", "numpy"), "allensdk": self._python.version},
        }

    def sessions(self) -> tuple[SessionSource, ...]:
        """Return the sessions that the warehouse offers, ascending by number.

        Raises
        ------
        MvkitError
            If AllenSDK is not installed, or the warehouse does not answer.
        """
        missing = [row for row in self._rows.values() if row["url"] and not Path(row["path"]).is_file()]
        steps = plan_files([self._session_file(row) for row in missing], self._fetch)
        by_path = {step.path: step for step in steps}
        return tuple(_offered(row, by_path.get(Path(row["path"]))) for row in self._rows.values())

    def read(self, source: SessionSource, request: SessionRequest) -> SessionRecording:
        """Download one session unless it is there, and read it.

        Raises
        ------
        MvkitError
            If it cannot be had or read; what was downloaded is kept.
        """
        name, row = f"session {source.session_id}", self._rows[source.session_id]
        path = Path(row["path"])
        if self._is_neuropixels:
            self._download_scenes()
        if not path.is_file():
            self._require_network(name)
            fetch_file(self._session_file(row), self._fetch)
        if self._is_neuropixels:
            metrics = path.with_name(f"session_{source.session_id}_analysis_metrics.csv")
            if not metrics.is_file():
                self._require_network(f"{name}: the table of its units")
                self._ask(["metrics", str(source.session_id)], about=name)
        return self._reader.read(replace(source, path=path), request)

    @cached_property
    def _python(self) -> AllenPython:
        return find_allen_python(self._fetch.home)

    @cached_property
    def _rows(self) -> dict[int, dict[str, Any]]:
        about = "the table of sessions"
        if self._is_neuropixels:
            table, task = "sessions.csv", ["sessions", *(["--offline"] if self._fetch.is_offline else [])]
        else:
            areas, stimulus = ",".join(self._request.areas), self._request.stimulus
            table, task = "ophys_experiments.json", ["experiments", "--areas", areas, "--stimulus", stimulus]
        if not (self.cache / table).is_file():
            self._require_network(about)
        rows = self._ask(task, about=about)
        if not rows:
            raise FetchError("the warehouse offers no session with natural scenes")
        return {int(row["session_id"]): row for row in rows}

    def _download_scenes(self) -> None:
        complete = self.cache / TEMPLATES / "complete"
        if complete.is_file():
            return
        self._require_network("the images")
        for row in self._ask(["scenes"], about="the images"):
            name = f"natural scene {row['frame']}"
            fetch_file(FileToFetch(name, str(row["url"]), Path(row["path"]), TIFF), self._fetch)
        complete.parent.mkdir(parents=True, exist_ok=True)
        complete.touch()

    def _session_file(self, row: Mapping[str, Any]) -> FileToFetch:
        if not row["url"]:
            raise FetchError(f"session {row['session_id']}: the warehouse offers no file of it")
        return FileToFetch(f"session {row['session_id']}", str(row["url"]), Path(row["path"]), NWB)

    def _require_network(self, what: str) -> None:
        if self._fetch.is_offline:
            raise FetchError(
                f"{what}: not in {self.cache}, and the network is forbidden\n"
                "allow it, or give session files that are on disk: --sessions-from DIR"
            )

    def _ask(self, task: Sequence[str], *, about: str) -> list[dict[str, Any]]:
        address = _address()
        self.cache.mkdir(parents=True, exist_ok=True)
        options = ["--cache", str(self.cache), *(["--address", address] if address else [])]
        return ask_allensdk(self._python, [*options, *task], about=about, progress=self._fetch.feedback.log)


def ask_allensdk(
    python: AllenPython,
    arguments: Sequence[str],
    *,
    about: str,
    progress: Callable[[str], object] = LOGGER.info,
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
    progress
        Receives what the script is at.

    Raises
    ------
    FetchError
        The script's own error, or its last words when it died.
    """
    rows: list[dict[str, Any]] = []
    error, is_complete = "", False
    with tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace") as stderr:
        try:
            # -I: neither PYTHONPATH nor the script's folder lends the old environment newer packages.
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
                        progress(row["progress"])
                    elif "error" in row:
                        error = str(row["error"])
                    elif "done" in row:
                        is_complete = True
                    else:
                        rows.append(row)
            except BaseException:
                # We are interrupted; it must not go on without us.
                process.kill()
                raise
        stderr.seek(0)
        log = stderr.read()
    LOGGER.debug("%s: AllenSDK wrote: %s", about, log)
    if error:
        raise FetchError(f"{error}\nwhat was fetched is kept: run the same command again")
    if not is_complete:
        raise FetchError(f"{about}: AllenSDK failed: {_last_line(log, process.returncode)}")
    return rows


def _row(line: str) -> dict[str, Any] | None:
    """Return the object of a line; None for one that a library wrote, or that a kill cut short."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _offered(row: Mapping[str, Any], planned: PlannedStep | None) -> SessionSource:
    number, path = int(row["session_id"]), Path(row["path"])
    identity = {"session_id": row["session_id"], "published_at": row["published_at"]}
    if path.is_file():
        return SessionSource(number, path, path.stat().st_size, 0, identity)
    if planned is None:
        return SessionSource(number, None, None, None, identity)
    return SessionSource(number, None, planned.size, planned.download_bytes, identity)


def _address() -> str:
    address = os.environ.get(WAREHOUSE_VARIABLE, "")
    parts = urlsplit(address)
    if address and (parts.scheme not in ("http", "https") or not parts.netloc):
        raise UsageError(f"{WAREHOUSE_VARIABLE}={address}: expected http://HOST or https://HOST")
    return address


def _last_line(log: str, code: int) -> str:
    if code == -signal.SIGKILL:
        return "its process was killed (out of memory?)"
    lines = [line for line in log.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"exit code {code}"
