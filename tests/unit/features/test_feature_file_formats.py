"""Which format a file's name and the format asked for lead to."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvkit.errors import UsageError
from mvkit.features.feature_file import feature_path, is_npz


@pytest.mark.parametrize(
    ("name", "wanted", "path"),
    [
        ("f.h5", None, "f.h5"),
        ("f.npz", None, "f.npz"),
        ("f", None, "f"),
        ("f.h5", "h5", "f.h5"),
        ("f.hdf5", "h5", "f.hdf5"),
        ("f.features", "h5", "f.features"),
        ("f", "h5", "f.h5"),
        ("f", "npz", "f.npz"),
        ("f.NPZ", "npz", "f.NPZ"),
    ],
)
def test_names_and_formats_that_agree(name, wanted, path):
    found = feature_path(Path("place") / name, wanted)
    assert found == Path("place") / path
    assert is_npz(found) == path.lower().endswith("npz")


@pytest.mark.parametrize("name", ["f.csv", "f.features", "run.2"])
def test_names_of_no_known_format(name):
    with pytest.raises(UsageError, match=r"features are written as \.h5 or \.npz"):
        feature_path(Path(name), None)


@pytest.mark.parametrize(("name", "wanted"), [("f.npz", "h5"), ("f.h5", "npz"), ("f.dat", "npz")])
def test_names_that_contradict_the_format(name, wanted):
    with pytest.raises(UsageError, match=rf"format {wanted} asked for, but the name ends in \.") as caught:
        feature_path(Path(name), wanted)
    assert f"name the file *.{wanted}" in str(caught.value)


def test_other_formats_are_refused_with_the_valid_ones():
    with pytest.raises(UsageError, match=r"unknown format 'npy'; did you mean 'npz'\?\nvalid: h5, npz"):
        feature_path(Path("f"), "npy")
