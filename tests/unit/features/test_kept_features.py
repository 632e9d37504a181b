"""Whole features in the cache: exactly what was kept, or a miss."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from mvkit.features.kept_features import DATA, DOCUMENT, KIND, keep_layer, kept_layer
from mvkit.features.stored_layer import StoredLayer
from mvkit.store.entries import Store
from mvkit.store.management import cache_info, prune

KEY = "ab" + "0" * 62
VALUES = np.random.default_rng(0).normal(size=(5, 12)).astype(np.float32)
PROBE = np.array([0.1, np.nan, -0.0, 1e-300])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def scratch(tmp_path: Path) -> StoredLayer:
    path = tmp_path / "scratch.f32"
    VALUES.tofile(path)
    return StoredLayer(path, (5, 12))


def test_arrays_and_stored_layers_come_back_to_the_last_bit(store: Store, scratch: StoredLayer) -> None:
    for number, layer in enumerate((VALUES, np.asfortranarray(VALUES), scratch)):
        key = f"{number:064x}"
        keep_layer(store, key, PROBE, layer, (3, 2, 2))
        kept = kept_layer(store, key)
        assert kept is not None
        back, shape, probe = kept
        assert (back.shape, shape) == ((5, 12), (3, 2, 2))
        assert np.asarray(back).tobytes() == VALUES.tobytes()
        assert probe.tobytes() == PROBE.tobytes()


def test_a_stored_layer_is_linked_and_outlives_its_scratch(store: Store, scratch: StoredLayer) -> None:
    keep_layer(store, KEY, PROBE, scratch, (12,))
    assert store.path(KIND, KEY, DATA).samefile(scratch.path)
    # Keeping the same again changes nothing.
    keep_layer(store, KEY, PROBE, scratch, (12,))
    scratch.path.unlink()

    kept = kept_layer(store, KEY)
    assert kept is not None
    np.testing.assert_array_equal(np.asarray(kept[0]), VALUES)
    assert sorted(path.suffix for path in store.path(KIND, KEY).parent.iterdir()) == [DATA, DOCUMENT]


def test_a_stored_layer_is_copied_where_it_cannot_be_linked(
    store: Store, scratch: StoredLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: Path) -> None:
        raise OSError("links are not supported")

    monkeypatch.setattr(os, "link", refuse)
    keep_layer(store, KEY, PROBE, scratch, (12,))
    kept = kept_layer(store, KEY, hold=store.folder / "hold")

    assert kept is not None
    assert not kept[0].path.samefile(scratch.path)
    np.testing.assert_array_equal(np.asarray(kept[0]), VALUES)


def test_what_is_held_survives_pruning(store: Store, tmp_path: Path) -> None:
    keep_layer(store, KEY, PROBE, VALUES, (12,))
    kept = kept_layer(store, KEY, hold=tmp_path / "hold")
    report = prune(store.folder, "all")

    assert report.n_removed == 1
    assert kept_layer(store, KEY) is None
    assert kept is not None
    np.testing.assert_array_equal(kept[0].columns(3, 7), VALUES[:, 3:7])


@pytest.mark.parametrize(
    "damage",
    [
        lambda data, document: data.write_bytes(data.read_bytes()[:-4]),
        lambda data, document: data.write_bytes(bytes(VALUES.nbytes)),
        lambda data, document: document.write_text("{"),
        lambda data, document: document.write_text("[]"),
        lambda data, document: document.write_text(
            document.read_text().replace('"n_images": 5', '"n_images": 6')
        ),
        lambda data, document: document.write_text(document.read_text().replace(KEY, "0" * 64)),
        lambda data, document: document.write_text(
            document.read_text().replace('"version": 1', '"version": 2')
        ),
        lambda data, document: document.write_bytes(os.urandom(50)),
    ],
)
def test_damage_is_a_miss(store: Store, caplog: pytest.LogCaptureFixture, damage: object) -> None:
    keep_layer(store, KEY, PROBE, VALUES, (12,))
    damage(store.path(KIND, KEY, DATA), store.path(KIND, KEY, DOCUMENT))  # type: ignore[operator]

    assert kept_layer(store, KEY, hold=store.folder / "hold") is None
    assert len(caplog.records) == 1
    assert not list((store.folder / "hold").glob("*"))
    # It is replaced by what is computed anew.
    keep_layer(store, KEY, PROBE, VALUES, (12,))
    assert kept_layer(store, KEY) is not None


@pytest.mark.parametrize("missing", [DATA, DOCUMENT])
def test_half_of_it_is_a_miss(store: Store, caplog: pytest.LogCaptureFixture, missing: str) -> None:
    keep_layer(store, KEY, PROBE, VALUES, (12,))
    store.path(KIND, KEY, missing).unlink()

    assert kept_layer(store, KEY) is None
    assert not caplog.records


def test_a_folder_that_cannot_be_written_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file")
    keep_layer(Store(tmp_path / "cache"), KEY, PROBE, VALUES, (12,))

    assert len(caplog.records) == 1


def test_features_count_as_one_result(store: Store) -> None:
    keep_layer(store, KEY, PROBE, VALUES, (12,))
    kind = cache_info(store.folder).kinds[KIND]
    sizes = [store.path(KIND, KEY, suffix).stat().st_size for suffix in (DATA, DOCUMENT)]

    assert (kind.n_entries, kind.n_bytes) == (1, sum(sizes))
