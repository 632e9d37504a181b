"""Compiled code: the same arithmetic and the same draws as NumPy's."""

from __future__ import annotations

import errno
import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvkit.images.augment import ViewKey, augment_images, draw_params
from mvkit.images.settings import Blur, ColourJitter, Flip, Greyscale
from mvkit.jit import compiled_exact, compiled_exact_part, edition


def test_every_operation_is_rounded_by_itself() -> None:
    """Neither a fused multiply-add nor a sum in another order: results depend on no machine code."""
    rng = np.random.default_rng(0)
    a, b, c = rng.standard_normal((3, 10000)).astype(np.float32)

    @compiled_exact_part
    def weighted(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        out = np.empty_like(a)
        for at in range(a.size):
            out[at] = a[at] * b[at] + c[at]
        return out

    @compiled_exact_part
    def summed(a: np.ndarray) -> np.float32:
        total = np.float32(0)
        for at in range(a.size):
            total += a[at]
        return total

    np.testing.assert_array_equal(weighted(a, b, c), a * b + c)
    assert not np.array_equal((a.astype(float) * b + c).astype(np.float32), a * b + c)
    assert summed(a) == np.cumsum(a, dtype=np.float32)[-1]


def test_where_nothing_can_be_kept_functions_are_compiled_all_the_same() -> None:
    # A function without a source file has no place on disk.
    made: dict[str, object] = {}
    exec("def double(x):\n    return 2 * x\n", made)
    assert compiled_exact(made["double"])(4) == 8  # type: ignore[arg-type]


def test_a_full_disk_costs_compiling_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core.caching import IndexDataCacheFile

    def fail(*words: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(IndexDataCacheFile, "save", fail)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "doubling.py").write_text("def double(x):\n    return 2 * x\n")
    assert compiled_exact(importlib.import_module("doubling").double)(4) == 8


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
def test_damaged_machine_code_is_compiled_and_saved_again(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"doubling_{suffix}.py").write_text("def double(x):\n    return 2 * x\n")
    double = importlib.import_module(f"doubling_{suffix}").double
    assert compiled_exact(double)(4) == 8
    (saved,) = tmp_path.rglob(f"*.{suffix}")
    whole = saved.stat().st_size
    for content in (b"", b"nothing", bytes(100)):
        saved.write_bytes(content)
        assert compiled_exact(double)(4) == 8
        assert saved.stat().st_size > whole // 2, "it was saved again"
    again: Any = compiled_exact(double)
    assert again(4) == 8
    assert again.stats.cache_hits, "and is found"


def test_an_edition_changes_with_the_source(tmp_path: Path) -> None:
    source = tmp_path / "part.py"
    source.write_text("a = 1\n")
    before = edition(str(source))
    assert edition(str(source)) == before > 0
    source.write_text("a = 2\n")
    assert edition(str(source)) != before


def test_one_compilation_serves_every_program() -> None:
    crops = np.zeros((4, 9, 9, 3), np.uint8)
    out = np.empty((4, 3, 9, 9), np.float32)
    norm = (np.zeros(3, np.float32), np.ones(3, np.float32))
    everything = (Flip(), Greyscale(), ColourJitter(contrast=0.1, hue=0.1), Blur())
    for count in range(5):
        params = draw_params(everything[:count], np.arange(4), ViewKey(0, 0, 0), side_px=9)
        augment_images(crops, (params.operations, params.amounts, params.taps), norm, out)
    assert len(augment_images.signatures) == 1  # type: ignore[attr-defined]
