"""Ask AllenSDK which sessions there are, where their files lie, and for the tables about them.

A script for a Python that has AllenSDK (2.16: Python 3.8 to 3.11, numpy 1, pandas 1); it imports nothing of
mvkit, and mvkit never imports it. Tables go into AllenSDK's cache; the session files are downloaded by
:mod:`mvkit.allen.fetch`, which resumes and checks them, to where AllenSDK's cache looks for them. ::

    python -I sdk.py --cache DIR [--address http://HOST] sessions [--offline]
                                                         scenes
                                                         movie NUMBER
                                                         metrics SESSION
                                                         experiments --areas AREA,... --stimulus NAME

Every line of the output is a JSON object: a row of the answer, ``{"progress": TEXT}``, ``{"error": TEXT}``,
or ``{"done": true}``, which ends every answer that is complete.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from allensdk.brain_observatory.ecephys.ecephys_project_api import (  # type: ignore[import-not-found]
    EcephysProjectWarehouseApi,
)
from allensdk.brain_observatory.ecephys.ecephys_project_api.rma_engine import (  # type: ignore[import-not-found]
    RmaEngine,
)
from allensdk.brain_observatory.ecephys.ecephys_project_cache import (  # type: ignore[import-not-found]
    EcephysProjectCache,
)
from allensdk.core import json_utilities  # type: ignore[import-not-found]
from allensdk.core.brain_observatory_cache import BrainObservatoryCache  # type: ignore[import-not-found]

#: Kind of session in which the images of Brain Observatory 1.1 were shown.
SESSION_TYPE = "brain_observatory_1.1"
#: Name of AllenSDK's manifest, beside which its cache lies.
MANIFEST = "manifest.json"

_OPHYS_FILE_TYPE = "NWBOphys"


def main() -> int:
    """Print the answer, one JSON object a line; return the exit code."""
    arguments = _parser().parse_args()
    output = sys.stdout

    def write(line: dict[str, Any]) -> None:
        output.write(json.dumps(line) + "\n")
        output.flush()

    # AllenSDK prints, too, which must not come between the lines.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            for row in arguments.answer(arguments):
                write(row)
        except (requests.RequestException, urllib.error.URLError) as error:
            server = arguments.address or "the Allen Institute's warehouse"
            write({"error": f"{server}: {type(error).__name__}: {str(error)[:200]}"})
            return 1
    write({"done": True})
    return 0


def sessions(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the Neuropixels sessions with natural scenes, ascending by number; the tables are cached.

    Rows have ``session_id``, ``path`` (in the cache, there or not), ``url`` ("" if it is there or offline)
    and ``published_at``.
    """
    cache = neuropixels_cache(arguments)
    api = cache.fetch_api
    for key, fetch in (
        (cache.SESSIONS_KEY, api.get_sessions),
        (cache.PROBES_KEY, api.get_probes),
        (cache.CHANNELS_KEY, api.get_channels),
        (cache.UNITS_KEY, api.get_units),
    ):
        path = Path(cache.get_cache_path(None, key))
        if not path.is_file():
            yield {"progress": f"asking for the table {path.name}"}
            _write_table(path, fetch)
    table = cache.get_session_table(suppress=[])
    if "has_nwb" in table.columns:
        table = table[table["has_nwb"].astype(bool)]
    links = _links(cache)
    for session_id, row in table[table["session_type"] == SESSION_TYPE].sort_index().iterrows():
        path = Path(cache.get_cache_path(None, cache.SESSION_NWB_KEY, session_id, session_id))
        has_link = not arguments.offline and not path.is_file()
        yield {
            "session_id": int(session_id),
            "path": str(path),
            "url": str(links.get_session_data(session_id)) if has_link else "",
            "published_at": str(row.get("published_at", "")),
        }


def metrics(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Cache the table of image selectivity and running p-values of one session; yield its ``path``."""
    cache, number = neuropixels_cache(arguments), arguments.session
    path = Path(cache.get_cache_path(None, cache.SESSION_ANALYSIS_METRICS_KEY, number, number))
    if not path.is_file():
        api = cache.fetch_api
        _write_table(path, lambda: api.get_unit_analysis_metrics(ecephys_session_ids=[number]))
    yield {"path": str(path)}


def scenes(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield ``frame``, ``path`` and ``url`` of the natural scenes that are not in the cache."""
    cache = neuropixels_cache(arguments)
    links = _links(cache)
    for frame in sorted(int(frame) for frame in links.stimulus_templates["scene_number"].dropna()):
        path = Path(cache.get_cache_path(None, cache.NATURAL_SCENE_KEY, frame))
        if not path.is_file():
            yield {"frame": frame, "path": str(path), "url": str(links.get_natural_scene_template(frame))}


def movie(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield ``path`` and ``url`` of the frames of a natural movie; the file is an array of NumPy."""
    cache, number = neuropixels_cache(arguments), arguments.number
    path = str(cache.get_cache_path(None, cache.NATURAL_MOVIE_KEY, number))
    yield {"path": path, "url": str(_links(cache).get_natural_movie_template(number))}


def experiments(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the imaging experiments of the areas with the stimulus, as :func:`sessions` does."""
    cache = calcium_cache(arguments)
    api = cache.api
    cells, table = (
        Path(cache.get_cache_path(None, key)) for key in (cache.CELL_SPECIMENS_KEY, cache.EXPERIMENTS_KEY)
    )
    for path, fetch in ((cells, lambda: list(api.get_cell_metrics())), (table, api.get_ophys_experiments)):
        if not path.is_file():
            yield {"progress": f"asking for the table {path.name}"}
            with _replacing(path) as temporary:
                json_utilities.write(str(temporary), fetch())
    # get_ophys_experiments of the cache asks the network about eye tracking each time, even offline.
    rows = api.filter_ophys_experiments(
        json_utilities.read(str(table)),
        targeted_structures=arguments.areas.split(","),
        stimuli=[arguments.stimulus],
    )
    for row in sorted(rows, key=lambda row: int(row["id"])):
        number = int(row["id"])
        yield {
            "session_id": number,
            "path": str(cache.get_cache_path(None, cache.EXPERIMENT_DATA_KEY, number)),
            "url": _ophys_link(api, row),
            "published_at": str(row.get("published_at") or ""),
        }


def neuropixels_cache(arguments: argparse.Namespace) -> Any:
    """Return AllenSDK's cache of Neuropixels sessions."""
    address = urlsplit(arguments.address or "")
    return EcephysProjectCache.from_warehouse(
        scheme=address.scheme or None,
        host=address.netloc + address.path.rstrip("/") or None,
        manifest=str(Path(arguments.cache) / MANIFEST),
    )


def calcium_cache(arguments: argparse.Namespace) -> Any:
    """Return AllenSDK's cache of imaging experiments."""
    base = arguments.address.rstrip("/") if arguments.address else None
    return BrainObservatoryCache(manifest_file=str(Path(arguments.cache) / MANIFEST), base_uri=base)


class _LinkEngine(RmaEngine):  # type: ignore[misc]
    """Asks the warehouse as AllenSDK does, but returns where files are instead of streaming them."""

    def stream(self, route: str) -> str:
        return f"{self.scheme}://{self.host}/{route.lstrip('/')}"


def _links(cache: Any) -> Any:
    engine = cache.fetch_api.rma_engine
    return EcephysProjectWarehouseApi(_LinkEngine(scheme=engine.scheme, host=engine.host))


def _ophys_link(api: Any, row: dict[str, Any]) -> str:
    for file in row.get("well_known_files") or ():
        kind = (file.get("well_known_file_type") or {}).get("name")
        if kind == _OPHYS_FILE_TYPE and file.get("download_link"):
            return f"{api.api_url}{file['download_link']}"
    return ""


def _write_table(path: Path, fetch: Callable[[], Any]) -> None:
    with _replacing(path) as temporary:
        fetch().to_csv(temporary)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a name whose file becomes ``path`` when it is whole; AllenSDK leaves half of it if killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.stem}.tmp-{os.getpid()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        if temporary.exists():
            temporary.unlink()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Ask AllenSDK; every line of the answer is a JSON object.")
    parser.add_argument("--cache", required=True, help="folder of AllenSDK's cache")
    parser.add_argument("--address", default="", help="another warehouse than the Allen Institute's")
    tasks = parser.add_subparsers(required=True)
    task = tasks.add_parser("sessions")
    task.add_argument("--offline", action="store_true", help="ask for no links")
    task.set_defaults(answer=sessions)
    task = tasks.add_parser("metrics")
    task.add_argument("session", type=int)
    task.set_defaults(answer=metrics)
    tasks.add_parser("scenes").set_defaults(answer=scenes)
    task = tasks.add_parser("movie")
    task.add_argument("number", type=int)
    task.set_defaults(answer=movie)
    task = tasks.add_parser("experiments")
    task.add_argument("--areas", required=True)
    task.add_argument("--stimulus", required=True)
    task.set_defaults(answer=experiments)
    return parser


if __name__ == "__main__":
    sys.exit(main())
