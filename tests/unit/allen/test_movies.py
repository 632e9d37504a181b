"""Natural movies: frames as images, repeats as trials, spikes per frame; and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import mvkit
from mvkit.allen import environment
from mvkit.allen import fetch as fetch_module
from mvkit.allen.environment import AllenPython
from mvkit.allen.fetch import fetch_sessions
from mvkit.allen.neuropixels import NeuropixelsReader
from mvkit.allen.request import SessionRequest
from mvkit.allen.session import SessionSource
from mvkit.errors import DataError, UsageError
from mvkit.features import open_stimuli
from mvkit.fetch.download import Feedback
from mvkit.fetch.run import FetchRequest
from mvkit.neural import open_neural_file
from mvkit.paths import locate_dataset, neural_path
from mvkit.pipeline.reliability import measure_reliability

STIMULUS = "natural_movie_one"
N_FRAMES, N_REPEATS = 9, 6
#: Two refreshes of a screen of 60 Hz.
FRAME_S = 1 / 30


def draw_movie_session(sessions: ModuleType, session_id: int, seed: int) -> Any:
    """A session of natural scenes, with two blocks of a movie behind, whose frames drive the units."""
    made = sessions.draw_session(session_id, units_per_area={"VISp": 3, "VISl": 2}, seed=seed, n_trials=2)
    draws = np.random.default_rng(seed)
    now = max(one.stop_s for one in made.presentations) + 5.0
    frames = []
    for repeat in range(N_REPEATS):
        now += 20.0 if repeat == N_REPEATS // 2 else 0.0
        for frame in range(N_FRAMES):
            # The screen's clock is not exact.
            stop = now + FRAME_S + float(draws.integers(0, 30)) * 1e-6
            frames.append(sessions.Presentation(now, stop, STIMULUS, float(frame), float(repeat)))
            now = stop
    units = []
    for unit in made.units:
        rate = draws.gamma(1.0, 1.5, N_FRAMES)
        counts = draws.poisson([rate[int(one.frame)] for one in frames])
        onsets = np.repeat([one.start_s for one in frames], counts)
        times = onsets + draws.uniform(0, FRAME_S, len(onsets))
        units.append(replace(unit, spikes_s=np.unique(np.concatenate([unit.spikes_s, times]))))
    return replace(made, units=tuple(units), presentations=(*made.presentations, *frames))


def movie_frames(n_frames: int = N_FRAMES) -> np.ndarray:
    """Frames that differ, uint8."""
    return np.random.default_rng(9).integers(0, 256, (n_frames, 6, 8)).astype(np.uint8)


def write_template(folder: Path, frames: np.ndarray, number: int = 1) -> None:
    """Write frames as the Allen Institute does: NumPy's format under the name of an HDF5 file."""
    (folder / "natural_movie_templates").mkdir(parents=True, exist_ok=True)
    with (folder / "natural_movie_templates" / f"natural_movie_{number}.h5").open("wb") as file:
        np.save(file, frames)


def rates_by_hand(session: Any, unit: Any, window_s: tuple[float, float] = (0.0, FRAME_S)) -> np.ndarray:
    """Spikes per second in the window after every onset, (n_repeats, n_frames)."""
    shown = [one for one in session.presentations if one.stimulus == STIMULUS]
    counts = np.array(
        [
            np.sum(
                (unit.spikes_s >= one.start_s + window_s[0]) & (unit.spikes_s <= one.start_s + window_s[1])
            )
            for one in shown
        ]
    )
    return counts.reshape(N_REPEATS, N_FRAMES) / (window_s[1] - window_s[0])


@pytest.fixture
def folder(sessions: ModuleType, write_folder: Callable[..., Any], tmp_path: Path) -> tuple[Path, list[Any]]:
    """A folder of two sessions with a movie, and the sessions."""
    made = [draw_movie_session(sessions, number, seed) for number, seed in ((31, 1), (32, 2))]
    (tmp_path / "sessions").mkdir()
    write_folder(tmp_path / "sessions", *made)
    write_template(tmp_path / "sessions", movie_frames(N_FRAMES + 2))
    return tmp_path / "sessions", made


def test_the_file_holds_spikes_per_frame_and_says_that_it_is_a_movie(
    folder: tuple[Path, list[Any]], sessions: ModuleType, tmp_path: Path
) -> None:
    path, made = folder
    request = SessionRequest(folder=path, stimulus=STIMULUS)
    report = fetch_sessions(request, FetchRequest(tmp_path / "home"), measure=measure_reliability)
    assert not report.failures and report.files[-1].name == f"neuropixels_{STIMULUS}"
    target = neural_path(f"neuropixels_{STIMULUS}", tmp_path / "home")
    assert report.files[-1].path == target and not list(target.parent.glob("*.sessions"))
    with open_neural_file(target) as file:
        contents, responses = file.contents, file.read()
    assert contents.dataset == f"neuropixels_{STIMULUS}" and contents.frame_rate_hz == 30
    assert contents.field_of_view_deg == 196.3
    assert np.array_equal(contents.frame_ids, np.arange(N_FRAMES))
    assert np.array_equal(contents.stimuli, movie_frames(N_FRAMES + 2)[:N_FRAMES])
    assert contents.time_s is not None and contents.time_s.tolist() == [pytest.approx(FRAME_S / 2)]
    assert responses.shape[:3] == (N_REPEATS, N_FRAMES, 1)
    units = [(one, unit) for one in made for unit in sessions.kept_units(one, SessionRequest().areas)]
    assert contents.unit_columns["unit_id"].tolist() == [unit.unit_id for _, unit in units]
    for index, (session, unit) in enumerate(units):
        assert responses[:, :, 0, index] == pytest.approx(rates_by_hand(session, unit), rel=1e-6)
    assert responses.max() > 60 and contents.units_of_measure == "spikes/s"
    assert contents.provenance["request"]["stimulus"] == STIMULUS  # type: ignore[index]

    # By its name, as a dataset of images and as a movie.
    assert locate_dataset(f"neuropixels_{STIMULUS}", tmp_path / "home") == target
    dataset = mvkit.open_dataset(f"neuropixels_{STIMULUS}", selection="none", home=tmp_path / "home")
    assert (dataset.frame_rate_hz, dataset.field_of_view_deg) == (30, 196.3)
    assert dataset.areas == ("VISp", "VISl")
    assert dataset.responses("VISp").shape[:2] == (N_REPEATS, N_FRAMES)
    stimuli = open_stimuli(f"neuropixels_{STIMULUS}", home=tmp_path / "home")
    assert stimuli.frame_rate_hz == 30 and len(stimuli.image_ids) == N_FRAMES


def test_another_window_and_bins_of_counts(
    folder: tuple[Path, list[Any]], sessions: ModuleType, tmp_path: Path
) -> None:
    path, made = folder
    request = SessionRequest(folder=path, stimulus=STIMULUS, window_ms=(40.0, 90.0))
    assert request.bin_ms == 50 and request.n_bins == 1
    found = NeuropixelsReader(path).read(SessionSource(31, path / "session_31.nwb"), request)
    units = sessions.kept_units(made[0], SessionRequest().areas)
    for index, unit in enumerate(units):
        expected = rates_by_hand(made[0], unit, (0.04, 0.09)) * 0.05
        assert np.array_equal(found.responses[:, :, 0, index], np.rint(expected))
    in_bins = replace(request, bin_ms=10.0)
    assert in_bins.holds_counts and in_bins.n_bins == 5


def test_what_stands_for_the_stimulus() -> None:
    scenes, movie = SessionRequest(), SessionRequest(stimulus="natural_movie_three")
    assert (scenes.name, scenes.bin_ms, scenes.window_ms) == ("neuropixels", 10.0, (0.0, 250.0))
    assert scenes.frame_rate_hz is None and not scenes.is_movie and scenes.field_of_view_deg == 120
    assert movie.name == "neuropixels_natural_movie_three" and movie.frame_rate_hz == 30
    assert movie.window_ms == (0.0, pytest.approx(1000 / 30)) and movie.n_bins == 1
    assert not movie.holds_counts and movie.digest != scenes.digest
    with pytest.raises(UsageError, match="calcium: natural_movie_one: movies are only read with spikes"):
        SessionRequest("calcium", stimulus="natural_movie_one")
    with pytest.raises(UsageError, match="did you mean 'natural_movie_one'"):
        SessionRequest(stimulus="natural_movie_on")


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (movie_frames(4), "4 frames, but frame 8 was shown"),
        (movie_frames().astype(float), "expected an array uint8"),
        (None, "no frames of the movie"),
        (b"\x89HDF\r\n\x1a\n", "not a readable array of NumPy"),
    ],
)
def test_frames_that_are_missing_or_damaged(
    folder: tuple[Path, list[Any]], frames: np.ndarray | bytes | None, message: str
) -> None:
    path, _ = folder
    template = path / "natural_movie_templates" / "natural_movie_1.h5"
    template.unlink()
    if isinstance(frames, bytes):
        template.write_bytes(frames)
    elif frames is not None:
        write_template(path, frames)
    request = SessionRequest(folder=path, stimulus=STIMULUS)
    with pytest.raises(DataError, match=message):
        NeuropixelsReader(path).read(SessionSource(31, path / "session_31.nwb"), request)


#: Stands for the script that asks AllenSDK.
FAKE_SDK = """
import json, sys
from pathlib import Path
cache = Path(sys.argv[sys.argv.index("--cache") + 1])
if "sessions" in sys.argv:
    path = cache / "session_31" / "session_31.nwb"
    url = "" if path.is_file() else f"{URL}/session_31.nwb"
    row = {"session_id": 31, "path": str(path), "url": url, "published_at": "2019"}
elif "movie" in sys.argv:
    number = sys.argv[-1]
    path = cache / "natural_movie_templates" / f"natural_movie_{number}.h5"
    row = {"path": str(path), "url": f"{URL}/movie_{number}"}
else:
    path = cache / "session_31" / "session_31_analysis_metrics.csv"
    path.write_text("ecephys_unit_id,image_selectivity_ns,p_value_running_ns\\n")
    row = {"path": str(path)}
print(json.dumps(row))
print(json.dumps({"done": True}))
"""


def test_the_movie_is_downloaded_once(
    folder: tuple[Path, list[Any]], faulty: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    path, _ = folder
    with faulty.running() as server:
        server.put("session_31.nwb", (path / "session_31.nwb").read_bytes())
        template = path / "natural_movie_templates" / "natural_movie_1.h5"
        server.put("movie_1", template.read_bytes())
        script = tmp_path / "fake_sdk.py"
        script.write_text(f"URL = {server.url!r}\n{FAKE_SDK}")
        monkeypatch.setattr(environment, "SCRIPT", script)
        python = AllenPython(Path(sys.executable), "2.16.2")
        monkeypatch.setattr(fetch_module, "find_allen_python", lambda home: python)
        settings = FetchRequest(tmp_path / "home", feedback=Feedback(lambda _: None))
        report = fetch_sessions(SessionRequest(stimulus=STIMULUS), settings)
        assert [one.status for one in report.files] == ["read", "assembled"], report.failures
        again = fetch_sessions(
            SessionRequest(stimulus=STIMULUS, window_ms=(0.0, 50.0)), replace(settings, force=True)
        )
        assert not again.failures
        cached = tmp_path / "home" / "allensdk-cache" / "neuropixels" / "natural_movie_templates"
        assert (cached / "natural_movie_1.h5").read_bytes() == template.read_bytes()
        assert not (cached.parent / "natural_scene_templates").exists()
    with open_neural_file(neural_path(f"neuropixels_{STIMULUS}", tmp_path / "home")) as file:
        assert np.array_equal(file.contents.stimuli, movie_frames(N_FRAMES + 2)[:N_FRAMES])
