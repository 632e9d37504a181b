"""Having tasks done in the AllenSDK environment: a process for each, so that its memory ends with it."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from typing import Any

from mvkit import errors
from mvkit.acquire.allen.environment import PACKAGE_PARENT, AllenPython
from mvkit.errors import DataError, MvkitError

LOGGER = logging.getLogger(__name__)

# The package is loaded from its file: with its folder on PYTHONPATH, an installed mvkit would bring the numpy
# that lies beside it.
_START = """
import importlib.util, pathlib, sys
place = sys.argv[1]
start = pathlib.Path(place) / "__init__.py"
spec = importlib.util.spec_from_file_location("mvkit", start, submodule_search_locations=[place])
sys.modules["mvkit"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["mvkit"])
from mvkit.acquire.allen.worker import main
sys.exit(main())
"""
_NOT_PASSED_ON = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONWARNINGS")


def perform(python: AllenPython, task: Mapping[str, object], *, label: str) -> Any:
    """Have one task done and return its result.

    Parameters
    ----------
    python
        Where AllenSDK is.
    task
        As :mod:`mvkit.acquire.allen.worker` says.
    label
        What it is about, for messages.

    Raises
    ------
    MvkitError
        The worker's own error, or a DataError with its last words when it died.
    """
    with tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace") as said:
        process = _start(python, said)
        try:
            told, _ = process.communicate(json.dumps(task))
        finally:
            # Reached with the process alive only when we are interrupted; it must not go on without us.
            if process.poll() is None:
                process.kill()
                process.wait()
        said.seek(0)
        words = said.read()
    LOGGER.debug("%s: the AllenSDK process said: %s", label, words)
    events = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    for event in events:
        if event.get("event") == "done" and process.returncode == 0:
            return event["result"]
        if event.get("event") == "error":
            raise _error_class(str(event["type"]))(str(event["message"]))
    raise DataError(f"{label}: AllenSDK failed: {_last_words(words, process.returncode)}")


def _start(python: AllenPython, said: Any) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if key not in _NOT_PASSED_ON}
    try:
        return subprocess.Popen(
            [str(python.path), "-c", _START, str(PACKAGE_PARENT / "mvkit")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env={**environment, "PYTHONNOUSERSITE": "1"},
        )
    except OSError as error:
        raise DataError(f"{python.path}: cannot be run ({error.strerror or error})") from error


def _error_class(name: str) -> type[MvkitError]:
    found = getattr(errors, name, MvkitError)
    return found if isinstance(found, type) and issubclass(found, MvkitError) else MvkitError


def _last_words(words: str, code: int) -> str:
    if code == -signal.SIGKILL:
        return "its process was killed (out of memory?)"
    lines = [line for line in words.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"exit code {code}"
