"""Sessions of different images, trials, types and columns in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvkit.allen.assemble import assemble, describe_sessions
from mvkit.allen.request import SessionRequest
from mvkit.allen.session import SessionOutline, SessionRecording, SessionSource, Staging, differing_images
from mvkit.errors import DataError
from mvkit.neural import NeuralFileContents, open_neural_file

IMAGES = np.random.default_rng(9).integers(0, 256, (6, 4, 5), dtype=np.uint8)


def session(
    number: int, frames: list[int], responses: np.ndarray, present: np.ndarray | None = None, **columns: Any
) -> SessionRecording:
    n_units = responses.shape[-1]
    return SessionRecording(
        session_id=number,
        specimen_id=number + 100,
        frame_ids=np.array(frames, dtype=np.int64),
        responses=responses,
        present=np.ones(responses.shape[:2], dtype=bool) if present is None else present,
        unit_columns={
            "unit_id": np.arange(n_units) + 10 * number,
            "visual_area": np.array(["VISp"] * n_units, dtype=np.str_),
            "image_selectivity_ns": np.full(n_units, np.nan),
            "run_pval_ns": np.full(n_units, 0.5),
            **columns,
        },
        stimuli=IMAGES[frames],
    )


def made(
    tmp_path: Path, *sessions: SessionRecording, dataset: str = "neuropixels", **request: Any
) -> tuple[NeuralFileContents, np.ndarray]:
    staging, asked = Staging(tmp_path / "staging"), SessionRequest(dataset, **request)
    outlines = [staging.add(one, SessionSource(one.session_id)) for one in sessions]
    contents = describe_sessions(outlines, staging, asked, provenance={"source": "here"})
    path = tmp_path / "made.h5"
    assemble(path, contents, outlines, staging, request=asked, progress=lambda done, total: None)
    with open_neural_file(path) as file:
        return file.contents, file.stored[...]


def counts(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 9, shape).astype(np.uint16)


def test_images_and_trials_that_a_session_lacks_are_missing(tmp_path: Path) -> None:
    present = np.array([[True, True], [True, False]])
    first = session(1, [0, 4], counts(2, 2, 25, 2) * present[..., None, None].astype(np.uint16), present)
    second = session(2, [2, 4, 5], counts(3, 3, 25, 1, seed=1))
    contents, stored = made(tmp_path, first, second)
    assert contents.frame_ids.tolist() == [0, 2, 4, 5] and np.array_equal(
        contents.stimuli, IMAGES[[0, 2, 4, 5]]
    )
    wanted = np.full((3, 4, 25, 3), 255, dtype=np.uint8)
    wanted[:2, 0, :, :2] = first.responses[:, 0]
    wanted[:1, 2, :, :2] = first.responses[:1, 1]
    wanted[:, [1, 2, 3], :, 2:] = second.responses
    assert np.array_equal(stored, wanted)
    assert contents.unit_columns["n_trials"].tolist() == [3, 3, 3]
    assert contents.unit_columns["specimen_id"].tolist() == [101, 101, 102]


def test_averaged_responses_have_no_time_axis(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
    values[3, 1] = np.nan
    longer = np.random.default_rng(1).normal(size=(5, 3, 1)).astype(np.float32)
    contents, stored = made(
        tmp_path, session(1, [0, 1, 2], values), session(2, [0, 1, 2], longer), dataset="calcium"
    )
    wanted = np.full((5, 3, 3), np.nan, dtype=np.float32)
    wanted[:4, :, :2], wanted[..., 2:] = values, longer
    assert contents.time_s is None and contents.units_of_measure == "dF/F" and stored.dtype == np.float32
    assert np.array_equal(stored, wanted, equal_nan=True)


def test_doubles_stay_doubles(tmp_path: Path) -> None:
    one = session(1, [0], np.full((2, 1, 1), 0.1, dtype=np.float32))
    other = session(2, [0], np.full((2, 1, 1), 0.1))
    _, stored = made(tmp_path, one, other, dataset="calcium")
    assert stored.dtype == np.float64 and stored[0, 0].tolist() == [float(np.float32(0.1)), 0.1]


def test_counts_beyond_a_byte_become_rates(tmp_path: Path) -> None:
    values = counts(2, 1, 25, 1)
    values[1, 0, 3, 0] = 255
    contents, stored = made(tmp_path, session(1, [0], values))
    assert stored.dtype == np.float32 and np.array_equal(stored, values.astype(np.float32) * 100)
    assert "255 spikes in a bin" in str(contents.provenance["remark"])


def test_columns_that_a_session_lacks(tmp_path: Path) -> None:
    contents, _ = made(
        tmp_path,
        session(1, [0], counts(2, 1, 25, 2), snr=np.array([1.0, 2.0]), layer=np.array(["4", "5"])),
        session(2, [0], counts(2, 1, 25, 0)),
        session(3, [0], counts(2, 1, 25, 1), depth=np.array([7])),
    )
    columns = contents.unit_columns
    assert list(columns)[:7] == [
        *("unit_id", "specimen_id", "visual_area", "session_id"),
        *("image_selectivity_ns", "run_pval_ns", "n_trials"),
    ]
    assert columns["layer"].tolist() == ["4", "5", ""]
    assert np.array_equal(columns["snr"], [1, 2, np.nan], equal_nan=True)
    assert np.array_equal(columns["depth"], [np.nan, np.nan, 7], equal_nan=True)


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    plain, averaged = session(1, [0], counts(2, 1, 25, 1)), session(2, [0], np.ones((2, 1, 1)))
    with pytest.raises(DataError, match="some sessions hold counts"):
        made(tmp_path, plain, averaged)
    text = session(2, [0], counts(2, 1, 25, 1), snr=np.array(["high"]))
    with pytest.raises(DataError, match="'snr' is text in some sessions"):
        made(tmp_path, session(1, [0], counts(2, 1, 25, 1), snr=np.ones(1)), text)


def test_images_are_kept_once_and_compared(tmp_path: Path) -> None:
    staging = Staging(tmp_path / "staging")

    def keep(number: int, images: np.ndarray) -> SessionOutline:
        one = session(number, [0, 1], counts(2, 2, 25, 1))
        return staging.add(
            SessionRecording(**{**{name: getattr(one, name) for name in vars(one)}, "stimuli": images}),
            SessionSource(number),
        )

    first, same = keep(1, IMAGES[:2]), keep(2, IMAGES[:2])
    assert len(list((staging.folder / "images").iterdir())) == 2 and differing_images(first, same) == []
    assert differing_images(first, keep(3, IMAGES[[0, 2]])) == [1]
    # The same bytes in another shape are another image.
    assert differing_images(first, keep(4, IMAGES[:2].reshape(2, 5, 4))) == [0, 1]
