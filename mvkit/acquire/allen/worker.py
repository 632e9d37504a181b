"""One task in the AllenSDK environment: JSON on stdin, a JSON event per line on stdout.

::

    {"task": "read", "path": ..., "folder": ..., "session_id": ..., "request": {...}, "out": FILE.npz}
    {"task": "read_cached", "cache": ..., "session_id": ..., "request": {...}, "out": FILE.npz}
    {"task": "list", "cache": ..., "links": true}     {"task": "scenes", "cache": ...}
    {"task": "list_ophys", "cache": ..., "stimulus": ..., "areas": [...]}

``read_ophys`` and ``read_cached_ophys`` are to imaging experiments what the first two are to sessions.

Every task may have an ``address`` (scheme and host). Events: ``{"event": "done", "result": ...}`` and
``{"event": "error", "type": ..., "message": ...}``; any other end is a failure, which stderr explains.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import urllib.error
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests

from mvkit.acquire.allen.session import SessionRecording, SessionRequest, save_session
from mvkit.errors import FetchError, MvkitError

_WATCH_S = 0.5


def main() -> int:
    """Do the task that stdin tells; return the exit code."""
    events = sys.stdout
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    # AllenSDK prints remarks, which must not come between events.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            told = {"event": "done", "result": perform(json.load(sys.stdin))}
        except MvkitError as error:
            told = {"event": "error", "type": type(error).__name__, "message": str(error)}
    events.write(json.dumps(told) + "\n")
    events.flush()
    return 0 if told["event"] == "done" else 1


def _end_with(parent: int) -> None:
    """End this process when the one that asked for its result is gone, however it ended."""
    while os.getppid() == parent:
        time.sleep(_WATCH_S)
    os._exit(1)


def perform(task: Mapping[str, Any]) -> object:
    """Do a task and return its result, which JSON can hold.

    Raises
    ------
    MvkitError
        If it cannot be done.
    """
    address = tuple(task["address"]) if task.get("address") else None
    cache = Path(task.get("cache") or ".")
    try:
        if str(task["task"]).endswith("_ophys"):
            return _perform_ophys(task, cache, address)
        from mvkit.acquire.allen import sdk

        match task["task"]:
            case "read":
                recording = sdk.read_file(
                    Path(task["path"]), Path(task["folder"]), _request(task), int(task["session_id"])
                )
                return _save(recording, task, sdk.describe())
            case "read_cached":
                recording = sdk.read_cached(cache, _request(task), int(task["session_id"]), address)
                return _save(recording, task, sdk.describe())
            case "list":
                return sdk.list_cached(cache, address, links=bool(task["links"]))
            case "scenes":
                return sdk.scene_links(cache, address)
            case unknown:
                raise FetchError(f"unknown task '{unknown}'")
    except (requests.RequestException, urllib.error.URLError) as error:
        place = "://".join(address) if address else "the Allen Institute's warehouse"
        raise FetchError(
            f"{place}: {type(error).__name__}: {str(error)[:200]}\n"
            "what was fetched is kept: run the same command again"
        ) from error


def _perform_ophys(task: Mapping[str, Any], cache: Path, address: tuple[str, str] | None) -> object:
    from mvkit.acquire.allen import sdk_ophys
    from mvkit.acquire.allen.imaging_request import ImagingRequest

    if task["task"] == "list_ophys":
        return sdk_ophys.list_cached(cache, address, stimulus=task["stimulus"], areas=task["areas"])
    request, number = ImagingRequest.from_json(task["request"]), int(task["session_id"])
    if task["task"] == "read_ophys":
        recording = sdk_ophys.read_file(Path(task["path"]), Path(task["folder"]), request, number)
    else:
        recording = sdk_ophys.read_cached(cache, request, number, address)
    return _save(recording, task, _versions())


def _versions() -> Mapping[str, object]:
    from mvkit.versions import installed_versions

    return {"versions": installed_versions("allensdk", "h5py", "numpy")}


def _request(task: Mapping[str, Any]) -> SessionRequest:
    return SessionRequest.from_json(task["request"])


def _save(
    recording: SessionRecording, task: Mapping[str, Any], versions: Mapping[str, object]
) -> Mapping[str, object]:
    save_session(recording, Path(task["out"]))
    return versions


if __name__ == "__main__":
    sys.exit(main())
