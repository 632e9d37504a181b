"""Names, addresses and places of what has been published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mvkit.errors import FetchError, UsageError
from mvkit.fetch.catalogue import (
    CHECKPOINT,
    RECORDINGS,
    checkpoint_file,
    checkpoint_names,
    dataset_names,
    pickle_file,
)
from mvkit.models.registry import RELEASED


def test_addresses_are_those_of_the_publication(tmp_path: Path) -> None:
    # Paper's data availability statement and issue 2, section B.
    assert checkpoint_file("alexnet_bn_ir", tmp_path).url == (
        "https://mouse-vision-ckpts.s3.amazonaws.com/alexnet_bn_ir.pt"
    )
    assert pickle_file("calcium", tmp_path).url == (
        "https://mouse-vision-neuraldata.s3.amazonaws.com/mouse_calcium_visual_data_with_reliabilities.pkl"
    )


def test_mirrors_replace_the_part_before_the_file_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MVKIT_CHECKPOINT_URL", "http://mirror/a/")
    monkeypatch.setenv("MVKIT_NEURAL_URL", "http://mirror/b")
    assert checkpoint_file("shi_mousenet_ir", tmp_path).url == "http://mirror/a/shi_mousenet_ir.pt"
    for name, row in RECORDINGS.items():
        assert pickle_file(name, tmp_path).url == f"http://mirror/b/{row.file_name}"


def test_every_released_model_can_be_fetched_by_either_name(tmp_path: Path) -> None:
    assert checkpoint_names([]) == tuple(RELEASED)
    for name, row in RELEASED.items():
        assert checkpoint_names([row.architecture, name]) == (name,)
        assert checkpoint_file(name, tmp_path).target == tmp_path / "checkpoints" / row.file_name
    with pytest.raises(UsageError, match="did you mean 'six_stream_simclr'"):
        checkpoint_names(["alexnet_bn_ir", "six_stream_simcrl"])


def test_datasets() -> None:
    assert dataset_names("all") == (*RECORDINGS, "simulated")
    assert dataset_names("calcium") == ("calcium",)
    with pytest.raises(UsageError, match="did you mean 'calcium'"):
        dataset_names("calcum")


def test_malicious_and_other_bytes_are_judged_by_their_beginning_only(legacy: Path) -> None:
    for path in (legacy / "odd" / "resaved").glob("*.pkl"):
        pickle_file("neuropixels", Path("home")).content.check(path.read_bytes()[:512], where=path.name)
    page = (legacy / "odd" / "truncated" / "html_error_page.pkl").read_bytes()
    with pytest.raises(FetchError):
        CHECKPOINT.check(page, where="page")
    # A pickle that would run code passes as a pickle: only the safe reader, which runs nothing, opens it.
    for body in json.loads((legacy / "odd" / "malicious.json").read_text()).values():
        if bytes.fromhex(body)[:1] == b"\x80":
            CHECKPOINT.check(bytes.fromhex(body), where="malicious")
