"""The manifest: records survive concurrent writers; damaged and newer ones are errors."""

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
    manifest.record(path, Record(size=len(body), sha256=hashlib.sha256(body).hexdigest()))
    return path


def test_writers_at_the_same_time_lose_no_record(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: put(Manifest(tmp_path), f"f{i}", bytes([i])), range(24)))
    assert sorted(Manifest(tmp_path).records()) == sorted(f"f{i}" for i in range(24))


def test_records_are_replaced_changed_and_removed(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path)
    path = put(manifest, "raw.pkl", b"1")
    manifest.record(path, Record(size=2, sha256="x", keep=False, made_from={"file": "y"}))
    record = manifest.find(path)
    assert record is not None
    assert (record.size, record.keep, record.made_from) == (2, False, {"file": "y"})
    manifest.keep(path)
    record = manifest.find(path)
    assert record is not None
    assert record.keep
    manifest.forget(path)
    manifest.forget(path)
    manifest.keep(path)
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


def test_a_changed_digit_is_noticed(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path)
    manifest.record(tmp_path / "a.pt", Record(size=1234, sha256="0" * 64))
    manifest.path.write_text(manifest.path.read_text().replace("1234", "1334"))
    with pytest.raises(FetchError, match="the manifest is damaged"):
        manifest.records()
