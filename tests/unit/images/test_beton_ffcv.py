"""The door to FFCV: what its import must not change, and what is said where it is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mvkit.errors import MissingPackageError
from mvkit.images.beton import has_ffcv, load_ffcv
from mvkit.images.prep import PrepSettings, prepare


def test_import_leaves_torchs_threads_alone(ffcv: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ffcv("ffcv")
    for name in [name for name in sys.modules if name == "ffcv.loader" or name.startswith("ffcv.loader.")]:
        monkeypatch.delitem(sys.modules, name)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        load_ffcv("ffcv.loader.loader")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def without_ffcv(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where FFCV was never installed."""
    for name in [name for name in sys.modules if name == "ffcv" or name.startswith("ffcv.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ffcv", None)


@pytest.mark.usefixtures("without_ffcv")
def test_absence_says_how_to_install_it() -> None:
    assert not has_ffcv()
    with pytest.raises(MissingPackageError, match=r"is not installed\n.*scripts/install_ffcv\.py"):
        load_ffcv("ffcv.reader")


@pytest.mark.usefixtures("without_ffcv")
def test_prep_ends_before_it_writes(make_folder: Any, tmp_path: Path) -> None:
    settings = PrepSettings(name="small", short_side_px=32)
    with pytest.raises(MissingPackageError, match=r"install_ffcv\.py"):
        prepare(settings, make_folder(), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.beton"))


def test_a_broken_installation_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in sys.modules if name == "ffcv" or name.startswith("ffcv.")]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "ffcv").mkdir()
    (tmp_path / "ffcv/__init__.py").write_text(
        "raise ImportError('libGL.so.1: cannot open shared object file')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingPackageError, match=r"does not load \(libGL\.so\.1"):
        load_ffcv()
