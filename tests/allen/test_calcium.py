"""Imaging experiments: what AllenSDK makes of files whose traces are known, and what we make of them."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from ophys_files import LENGTH, Experiment, draw_experiment, expected_responses, write_ophys_folder
from warehouse import OphysWarehouse, running

from mvkit.allen import environment
from mvkit.allen.calcium import CalciumReader
from mvkit.allen.environment import AllenPython, ask_allensdk
from mvkit.allen.fetch import DownloadingReader
from mvkit.allen.request import SessionRequest
from mvkit.allen.session import SessionRecording, SessionSource
from mvkit.errors import DataError, FetchError
from mvkit.fetch.download import DownloadSettings
from mvkit.fetch.run import FetchRequest

REQUEST = SessionRequest("calcium")


def without_trace(experiment: Experiment) -> Experiment:
    """Return the experiment with a cell that was lost, and one that was lost for a while."""
    demixed = experiment.demixed.copy()
    demixed[0] = np.nan
    demixed[1, 100:150] = np.nan
    return replace(experiment, demixed=demixed)


def from_the_start(experiment: Experiment) -> Experiment:
    """Return the experiment without what was recorded before the first presentations had a baseline."""
    shift = int(experiment.shown[:, 1].min()) - 3
    moved = experiment.shown - np.array([0, shift, shift])
    return replace(
        experiment,
        demixed=experiment.demixed[:, shift:],
        neuropil=experiment.neuropil[:, shift:],
        shown=moved,
    )


def shuffled(experiment: Experiment) -> Experiment:
    """Return the experiment with its presentations in another order in the file."""
    return replace(experiment, shown=np.random.default_rng(5).permutation(experiment.shown))


EXPERIMENTS = [
    pytest.param(draw_experiment(501, seed=1, n_cells=18), id="usual"),
    pytest.param(draw_experiment(502, seed=2, fewer={2: 3, 4: 1}, n_cells=3), id="fewer presentations"),
    pytest.param(draw_experiment(503, seed=3, samples_cut=LENGTH - 2), id="cut within a presentation"),
    pytest.param(
        draw_experiment(504, seed=4, samples_cut=4 * LENGTH), id="cut before the last presentations"
    ),
    pytest.param(from_the_start(draw_experiment(505, seed=5)), id="no baseline for the first"),
    pytest.param(shuffled(draw_experiment(506, seed=6)), id="in another order"),
    pytest.param(without_trace(draw_experiment(507, seed=7)), id="lost cells"),
    pytest.param(replace(draw_experiment(508, seed=8), pipeline=""), id="first pipeline"),
]


def assert_measured(recording: SessionRecording, experiment: Experiment) -> None:
    """Compare a recording with arithmetic on the traces."""
    frames, responses, present = expected_responses(experiment)
    assert (recording.session_id, recording.specimen_id) == (
        experiment.experiment_id,
        experiment.specimen_id,
    )
    np.testing.assert_array_equal(recording.frame_ids, frames)
    np.testing.assert_array_equal(recording.present, present)
    np.testing.assert_allclose(recording.responses, responses, rtol=1e-11, atol=1e-11)
    np.testing.assert_array_equal(recording.unit_columns["unit_id"], experiment.cell_ids)
    np.testing.assert_array_equal(recording.unit_columns["cell_specimen_id"], experiment.cell_ids)
    assert set(recording.unit_columns["visual_area"]) == {experiment.area}
    for name in ("p_run_mod_ns", "pref_image_ns"):
        values = [experiment.metrics.get(int(cell), {}).get(name) for cell in experiment.cell_ids]
        expected = [np.nan if value is None else value for value in values]
        np.testing.assert_array_equal(recording.unit_columns[name], expected)
    np.testing.assert_array_equal(recording.stimuli, experiment.images[frames])


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_h5py_measures_what_arithmetic_gives(tmp_path: Path, experiment: Experiment) -> None:
    reader = CalciumReader(write_ophys_folder(tmp_path, [experiment]), REQUEST)
    (source,) = reader.sessions()
    assert_measured(reader.read(source, REQUEST), experiment)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_allensdk_measures_the_same(oracle: ModuleType, tmp_path: Path, experiment: Experiment) -> None:
    reader = CalciumReader(write_ophys_folder(tmp_path, [experiment]), REQUEST)
    (source,) = reader.sessions()
    assert source.path is not None
    one = reader.read(source, REQUEST)
    other = oracle.read_experiment(source.path, tmp_path, REQUEST)
    assert_measured(other, experiment)
    np.testing.assert_array_equal(one.responses, other.responses)
    assert list(one.unit_columns) == list(other.unit_columns)
    for name, column in one.unit_columns.items():
        np.testing.assert_array_equal(column, other.unit_columns[name], err_msg=name)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_it_is_what_allensdk_calls_mean_sweep_response(
    oracle: ModuleType, tmp_path: Path, experiment: Experiment
) -> None:
    from allensdk.brain_observatory.natural_scenes import NaturalScenes
    from allensdk.core.brain_observatory_nwb_data_set import BrainObservatoryNwbDataSet

    reader = CalciumReader(write_ophys_folder(tmp_path, [experiment]), REQUEST)
    (source,) = reader.sessions()
    recording = reader.read(source, REQUEST)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scenes = NaturalScenes(BrainObservatoryNwbDataSet(str(source.path)))
        theirs = scenes.mean_sweep_response.to_numpy()[:, : scenes.numbercells].astype(np.float64)
    frames = scenes.stim_table["frame"].to_numpy()
    for column, frame in enumerate(recording.frame_ids):
        own = recording.responses[recording.present[:, column], column]
        # AllenSDK has NaN for those that we count as never made.
        made = theirs[frames == frame]
        made = made[: len(own)] if np.isfinite(made[0]).any() else made[len(made) - len(own) :]
        np.testing.assert_allclose(own, made, rtol=1e-13, atol=1e-12)


def test_other_files_and_areas_are_reported(oracle: ModuleType, tmp_path: Path) -> None:
    experiment = draw_experiment(501, area="VISl")
    path = write_ophys_folder(tmp_path, [experiment]) / "ophys_experiment_data" / "501.nwb"
    with pytest.raises(DataError, match="it is experiment 501, not 502"):
        CalciumReader(tmp_path, REQUEST).read(SessionSource(502, path), REQUEST)
    elsewhere = SessionRequest("calcium", areas=("VISp",))
    assert oracle.read_experiment(path, tmp_path, elsewhere).n_units == 0
    assert CalciumReader(tmp_path, REQUEST).read(SessionSource(501, path), elsewhere).n_units == 0


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OphysWarehouse]:
    """A server of four experiments: one of another area, one whose container failed."""
    experiments = [
        draw_experiment(501, seed=1),
        draw_experiment(502, seed=2, area="VISl"),
        replace(draw_experiment(503, seed=3), failed=True),
        draw_experiment(504, seed=4),
    ]
    folder = tmp_path / "served"
    folder.mkdir()
    with running(write_ophys_folder(folder, experiments), OphysWarehouse) as server:
        monkeypatch.setenv("MVKIT_ALLEN_URL", server.url)
        yield server


def fetching(home: Path, **settings: Any) -> FetchRequest:
    """How to fetch in these tests: without waiting between attempts."""
    download = DownloadSettings(attempts=2, sleep=lambda seconds: None)
    return FetchRequest(home=home, download=download, **settings)


@pytest.mark.slow
def test_the_cache_is_filled_from_a_server_and_read(
    served: OphysWarehouse, allen_python: AllenPython, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.INTERPRETER_VARIABLE, str(allen_python.path))
    request = SessionRequest("calcium", areas=("VISp",))
    home = tmp_path / "home"
    reader = DownloadingReader(request, fetching(home))
    sources = reader.sessions()
    nwb = served.folder / "ophys_experiment_data" / "504.nwb"
    assert [(one.session_id, one.path) for one in sources] == [(501, None), (504, None)]
    assert sources[1].download_bytes == nwb.stat().st_size

    served.cuts = [50_000]
    recording = reader.read(sources[1], request)
    assert_measured(recording, draw_experiment(504, seed=4))
    cached = home / "allensdk-cache" / "calcium" / "ophys_experiment_data" / "504.nwb"
    assert cached.read_bytes() == nwb.read_bytes() and (cached.parents[1] / "manifest.json").is_file()
    assert sum("504.nwb" in asked for asked in served.asked) == 2

    asked = len(served.asked)
    again = DownloadingReader(request, fetching(home, offline=True))
    assert [one.path for one in again.sessions()] == [None, cached]
    np.testing.assert_array_equal(again.read(sources[1], request).responses, recording.responses)
    with pytest.raises(FetchError, match="the network is forbidden"):
        again.read(sources[0], request)
    assert len(served.asked) == asked


def test_a_prepared_folder_is_read_as_allensdks_cache(
    served: OphysWarehouse, allen_python: AllenPython, oracle: ModuleType, tmp_path: Path
) -> None:
    # Its tables come from the server, once; its files lie there already.
    cache = tmp_path / "cache"
    shutil.copytree(served.folder / "ophys_experiment_data", cache / "ophys_experiment_data")
    options = ["--cache", str(cache), "--address", served.url]
    task = ["experiments", "--stimulus", "natural_scenes", "--areas", "VISp,VISl"]
    for _ in range(2):
        rows = ask_allensdk(allen_python, [*options, *task], about="experiments")
        assert [row["session_id"] for row in rows] == [501, 502, 504]
        assert len(served.asked) == 2
    assert rows[0]["url"] == f"{served.url}/api/v2/well_known_file_download/ophys_experiment_data/501.nwb"
    recording = oracle.read_cached_experiment(cache, REQUEST, 502)
    assert_measured(recording, draw_experiment(502, seed=2, area="VISl"))
    # The folder of the cache is also one that is read from disk.
    reader = CalciumReader(cache, REQUEST)
    assert [one.session_id for one in reader.sessions()] == [501, 502, 504]
    np.testing.assert_array_equal(reader.read(reader.sessions()[1], REQUEST).responses, recording.responses)


def test_a_warehouse_that_does_not_answer_is_reported(
    served: OphysWarehouse, allen_python: AllenPython, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.INTERPRETER_VARIABLE, str(allen_python.path))
    served.broken = "down for maintenance"
    reader = DownloadingReader(REQUEST, fetching(tmp_path / "home"))
    with pytest.raises(FetchError, match=r"HTTPError.*503"):
        reader.sessions()
    assert {path.name for path in reader.cache.glob("*.json")} <= {"manifest.json"}


def test_what_is_not_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        CalciumReader(tmp_path, REQUEST).read(SessionSource(501), REQUEST)
