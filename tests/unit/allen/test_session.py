"""A session's file: everything comes back, damage is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvkit.allen.session import SessionRecording, load_outline, load_session, save_session
from mvkit.errors import DataError


def recording(**changes: Any) -> SessionRecording:
    draws = np.random.default_rng(0)
    columns = {
        "unit_id": np.array([11, 7], dtype=np.int64),
        "visual_area": np.array(["VISp", "VISam"]),
        "image_selectivity_ns": np.array([0.5, np.nan]),
        "run_pval_ns": np.array([np.nan, 0.25]),
        "good": np.array([True, False]),
    }
    made = SessionRecording(
        session_id=715093703,
        specimen_id=699733581,
        frame_ids=np.array([0, 5, 117], dtype=np.int64),
        responses=draws.integers(0, 9, (4, 3, 5, 2), dtype=np.uint16),
        present=draws.random((4, 3)) < 0.9,
        unit_columns=columns,
        stimuli=draws.integers(0, 256, (3, 6, 8), dtype=np.uint8),
        provenance={"file": "a.nwb", "bytes": 3},
    )
    return replace(made, **changes)


def same(one: SessionRecording, other: SessionRecording) -> bool:
    arrays = [(one.responses, other.responses), (one.present, other.present), (one.stimuli, other.stimuli)]
    arrays += [(one.unit_columns[name], other.unit_columns[name]) for name in one.unit_columns]
    equal = all(a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in arrays)
    plain = (one.session_id, one.specimen_id, one.frame_ids.tolist(), one.provenance, [*one.unit_columns])
    return equal and plain == (
        other.session_id,
        other.specimen_id,
        other.frame_ids.tolist(),
        other.provenance,
        [*other.unit_columns],
    )


AVERAGED = np.random.default_rng(1).random((4, 3, 2), dtype=np.float32)


@pytest.mark.parametrize("changes", [{}, {"responses": AVERAGED}], ids=["counts", "averaged"])
def test_a_session_comes_back(tmp_path: Path, changes: dict[str, Any]) -> None:
    made = recording(**changes)
    save_session(made, tmp_path / "a.npz")
    assert same(load_session(tmp_path / "a.npz"), made)
    outline = load_outline(tmp_path / "a.npz")
    assert outline.shape == made.responses.shape and outline.n_units == 2 and outline.n_trials == 4
    assert outline.largest == (0 if changes else int(made.responses.max()))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_file_cut_short_is_found(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.npz"
    save_session(recording(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match=r"a\.npz"):
        load_session(path)


def test_changed_bytes_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    save_session(recording(), path)
    whole = bytearray(path.read_bytes())
    place = whole.index(b"responses.npy") + 60
    whole[place] ^= 0xFF
    path.write_bytes(whole)
    with pytest.raises(DataError, match="not a readable session"):
        load_session(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", a=np.arange(3))
    with pytest.raises(DataError, match="not a readable session"):
        load_session(tmp_path / "other.npz")
    np.save(tmp_path / "array.npz", np.arange(3))
    (tmp_path / "array.npz.npy").rename(tmp_path / "array.npz")
    with pytest.raises(DataError, match="not a session that mvkit wrote"):
        load_outline(tmp_path / "array.npz")
    with pytest.raises(DataError):
        load_session(tmp_path / "missing.npz")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"responses": np.zeros((4, 3, 5, 2))}, "axes"),
        ({"responses": np.zeros((3, 3, 5, 2), dtype=np.uint16)}, "'present'"),
        ({"frame_ids": np.array([5, 0, 117])}, "ascend"),
        ({"stimuli": np.zeros((2, 6, 8), dtype=np.uint8)}, "stimuli"),
        ({"responses": np.zeros((4, 3, 5, 3), dtype=np.uint16)}, "unit column 'unit_id'"),
        ({"unit_columns": {"unit_id": np.arange(2)}}, "'visual_area' is missing"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        recording(**changes)
