"""The manifest: records survive concurrent writers, and checking finds every kind of damage."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mvkit.errors import FetchError
from mvkit.fetch.manifest import Manifest, Record


def put(manifest: Manifest, key: str, body: bytes) -> Path:
    """Write and record a file."""
    path = manifest.home / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    manifest.record(path, Record.of_now(size=len(body), sha256=hashlib.sha256(body).hexdigest()))
    return path


def test_every_kind_of_damage_is_found(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path)
    put(manifest, "a/good", b"12345")
    put(manifest, "a/flipped", b"12345").write_bytes(b"12346")
    put(manifest, "a/short", b"12345").write_bytes(b"1234")
    put(manifest, "a/gone", b"12345").unlink()
    (tmp_path / "a" / "stranger").write_bytes(b"1")
    keys = ["a/good", "a/flipped", "a/short", "a/gone", "a/stranger", "a/never"]
    counts: list[tuple[int, int]] = []
    verdicts = manifest.verify(keys, progress=lambda done, total: counts.append((done, total)))
    assert [verdict.finding for verdict in verdicts] == [
        "ok",
        "wrong checksum",
        "wrong size",
        "missing",
        "not recorded",
        "missing",
    ]
    assert [verdict.is_ok for verdict in verdicts] == [True] + [False] * 5
    assert counts == [(5, 20), (10, 20)]


def test_writers_at_the_same_time_lose_no_record(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: put(Manifest(tmp_path), f"f{i}", bytes([i])), range(24)))
    assert sorted(Manifest(tmp_path).records()) == sorted(f"f{i}" for i in range(24))


def test_records_are_replaced_marked_and_forgotten(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path)
    path = put(manifest, "raw.pkl", b"1")
    manifest.record(path, Record.of_now(size=2, sha256="x", keep=False, made_from={"file": "y"}))
    found = manifest.find(path)
    assert found is not None
    assert (found.size, found.keep, found.made_from) == (2, False, {"file": "y"})
    manifest.mark_kept(path)
    kept = manifest.find(path)
    assert kept is not None
    assert kept.keep
    manifest.forget(path)
    manifest.forget(path)
    manifest.mark_kept(path)
    assert manifest.records() == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"files": {}}',
        '{"format": "mvkit-manifest", "version": 1, "files": {"x": {"size": 1}}}',
        '{"format": "mvkit-manifest", "version": 1, "files": 3}',
    ],
)
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str) -> None:
    manifest = Manifest(tmp_path)
    manifest.path.write_text(text)
    with pytest.raises(FetchError, match=r"manifest\.json: the manifest is damaged"):
        manifest.records()


def test_a_newer_manifest_is_not_rewritten(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path)
    text = json.dumps({"format": "mvkit-manifest", "version": 2, "files": {}})
    manifest.path.write_text(text)
    with pytest.raises(FetchError, match="update mvkit"):
        put(manifest, "x", b"1")
    assert manifest.path.read_text() == text
