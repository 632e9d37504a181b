"""`mvkit fetch neural` as a user runs it: downloaded, converted, killed on the way, and run again."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import mvkit
from mvkit.cli.main import run
from mvkit.paths import home_dir, neural_dir, neural_path

Same = Callable[[Path, Path], bool]
FILE_NAME = "mouse_neuropixels_visual_data_with_reliabilities.pkl"


def raw() -> Path:
    """Where the pickle waits."""
    return neural_dir() / "raw" / FILE_NAME


def document(words: list[str], capsys: pytest.CaptureFixture[str], *, code: int = 0) -> dict[str, Any]:
    """Run a command with --json and return its one document."""
    capsys.readouterr()
    assert run(["fetch", "neural", *words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_downloaded_converted_and_the_pickle_removed(
    served: Any, pickled: bytes, expected: Path, same_arrays: Same, capsys: pytest.CaptureFixture[str]
) -> None:
    pickle, converted = document(["--dataset", "neuropixels"], capsys)["files"]
    assert (pickle["status"], pickle["bytes"], pickle["removed"]) == ("fetched", len(pickled), True)
    assert (converted["status"], converted["path"]) == ("converted", str(neural_path("neuropixels")))
    assert converted["made_from"]["url"] == f"{served.url}/{FILE_NAME}"
    assert converted["made_from"]["sha256"] == pickle["sha256"]
    assert same_arrays(neural_path("neuropixels"), expected)
    assert not raw().exists()
    recorded = json.loads((home_dir() / "manifest.json").read_text())["files"]
    assert list(recorded) == ["neural/neuropixels.h5"]
    assert recorded["neural/neuropixels.h5"]["made_from"] == converted["made_from"]
    assert [row["status"] for row in document(["--dataset", "neuropixels"], capsys)["files"]] == [
        "already there"
    ]
    assert len(served.gets()) == 1
    assert document(["--verify"], capsys)["ok"] is True
    assert len(mvkit.open_dataset("neuropixels", selection="none").areas) >= 1


def test_keep_raw_and_force(served: Any, pickled: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--dataset", "neuropixels"]
    assert document([*words, "--keep-raw"], capsys)["files"][0]["removed"] is False
    assert raw().read_bytes() == pickled
    document(words, capsys)
    assert raw().exists(), "a pickle once kept is not removed by a later run"
    assert len(document(["--verify"], capsys)["files"]) == 2
    neural_path("neuropixels").unlink()
    assert [row["status"] for row in document(words, capsys)["files"]] == ["already there", "converted"]
    assert len(served.gets()) == 1
    assert [row["status"] for row in document([*words, "--force"], capsys)["files"]] == [
        "fetched",
        "converted",
    ]
    assert len(served.gets()) == 2


@pytest.mark.parametrize("suffix", [".pkl", ".pkl.gz", ".pkl.xz"])
def test_a_file_the_user_has_is_converted_and_left_alone(
    server: Any,
    pickled: bytes,
    expected: Path,
    same_arrays: Same,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    suffix: str,
) -> None:
    pack = {".pkl": bytes, ".pkl.gz": partial(gzip.compress, mtime=0), ".pkl.xz": lzma.compress}[suffix]
    mine = tmp_path / f"mine{suffix}"
    mine.write_bytes(pack(pickled))
    mine.chmod(0o444)
    words = ["--dataset", "neuropixels", "--from", str(mine)]
    (converted,) = document([*words, "--offline"], capsys)["files"]
    assert converted["made_from"]["file"] == mine.name
    assert same_arrays(neural_path("neuropixels"), expected)
    assert mine.read_bytes() == pack(pickled)
    assert server.seen == []
    assert run(["fetch", "neural", *words]) == 0
    assert "was not used" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "fetch neural needs --dataset: neuropixels, calcium, simulated or all"),
        (["--dataset", "neuropixel"], "did you mean 'neuropixels'?"),
        (["--dataset", "all", "--from", "x.pkl"], "holds one dataset"),
        (["--dataset", "simulated", "--from", "x.pkl"], "holds one dataset"),
        (["--dataset", "calcium", "--from", "x.pkl"], "no such file"),
        (["--dataset", "calcium", "--from", __file__], "must end in .pkl"),
        (["--dataset", "calcium", "--dry-run", "--verify"], "--dry-run and --verify contradict each other"),
    ],
)
def test_wrong_arguments(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fetch", "neural", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_file_that_is_no_pickle_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "page.pkl"
    mine.write_bytes(b"<html>not found</html>")
    found = document(["--dataset", "neuropixels", "--from", str(mine)], capsys, code=1)
    assert "page.pkl" in found["files"][0]["error"]
    assert [path.name for path in neural_dir().iterdir() if path.name[0] != "."] == []


def test_a_served_pickle_that_is_cut_short_is_kept_for_inspection(
    server: Any, pickled: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    server.put(FILE_NAME, pickled[:-1000])
    (failed,) = document(["--dataset", "neuropixels"], capsys, code=1)["files"]
    assert f"the pickle is kept at {raw()}; --force fetches it again" in failed["error"]
    assert not neural_path("neuropixels").exists()
    server.put(FILE_NAME, pickled)
    assert document(["--dataset", "neuropixels", "--force"], capsys)["ok"] is True


def test_dry_run_counts_the_pickle_and_the_neural_file(
    served: Any, pickled: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    found = document(["--dataset", "neuropixels", "--dry-run"], capsys)
    assert [(row["step"], row["size"]) for row in found["files"]] == [
        ("download", len(pickled)),
        ("convert", round(len(pickled) / 8)),
    ]
    assert found["disk"]["needed_bytes"] == len(pickled) + round(len(pickled) / 8)
    assert served.gets() == []
    offline = document(["--dataset", "all", "--dry-run", "--offline"], capsys)
    sizes = {row["name"]: row["size"] for row in offline["files"] if not row["is_exact"]}
    assert sizes["neuropixels pickle"] == 9_800_000_000
    assert sizes["calcium pickle"] == 1_900_000_000
    # The larger pickle is gone again before the smaller one comes; calcium is kept as it is.
    kept, passing = sizes["neuropixels"], sizes["neuropixels pickle"]
    assert offline["disk"]["needed_bytes"] == kept + passing
    keeping = document(["--dataset", "all", "--dry-run", "--offline", "--keep-raw"], capsys)
    assert keeping["disk"]["needed_bytes"] == sum(sizes.values())


def test_too_little_disk_is_refused(served: Any, capsys: pytest.CaptureFixture[str]) -> None:
    served.head_length = 10**18
    assert run(["fetch", "neural", "--dataset", "neuropixels"]) == 1
    assert "1125000.0 TB of disk are needed" in capsys.readouterr().err
    assert served.gets() == []


def test_offline_says_what_to_do(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fetch", "neural", "--dataset", "neuropixels", "--offline"]) == 1
    error = capsys.readouterr().err
    assert str(raw()) in error
    assert "--from FILE" in error
    assert server.seen == []


def test_simulated_is_generated_without_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = document(["--dataset", "simulated", "--offline"], capsys)["files"]
    assert (row["status"], row["path"]) == ("generated", str(neural_path("simulated")))
    stored = mvkit.open_dataset(neural_path("simulated"), selection="none")
    assert len(stored.areas) == 6
    for recording in stored.recordings:
        assert recording.responses.shape[:2] == (50, 118)
    assert all(len(stored.specimens(area)) >= 3 for area in stored.areas)
    assert document(["--dataset", "simulated"], capsys)["files"][0]["status"] == "already there"


def test_all_is_the_two_published_ones_and_the_simulation(
    server: Any, legacy_published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for packed in legacy_published.glob("mouse_*.pkl.xz"):
        server.put(packed.name.removesuffix(".xz"), lzma.decompress(packed.read_bytes()))
    found = document(["--dataset", "all"], capsys)
    assert [(row["name"], row["status"]) for row in found["files"]] == [
        ("neuropixels pickle", "fetched"),
        ("neuropixels", "converted"),
        ("calcium pickle", "fetched"),
        ("calcium", "converted"),
        ("simulated", "generated"),
    ]
    assert list((neural_dir() / "raw").glob("*.pkl")) == []
    assert document(["--verify", "--dataset", "all"], capsys)["ok"] is True


def test_datasets_that_were_never_fetched_are_named_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fetch", "neural", "--dataset", "all", "--verify"]) == 1
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == (
        "",
        "error: neuropixels, calcium, simulated: not fetched yet (mvkit fetch neural --dataset NAME)\n",
    )


def test_a_dry_run_without_a_server_prints_published_sizes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MVKIT_NEURAL_URL", "http://127.0.0.1:9")
    assert run(["fetch", "neural", "--dataset", "neuropixels", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "127.0.0.1:9: no connection to the server; published size: neuropixels pickle\n" in out
    assert "to download: 9.8 GB from http://127.0.0.1:9\n" in out
