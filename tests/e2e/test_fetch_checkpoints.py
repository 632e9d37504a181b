"""`mvkit fetch checkpoints` as a user runs it, in this process."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mvkit.cli.main import run
from mvkit.files import format_bytes
from mvkit.models.registry import RELEASED
from mvkit.paths import checkpoint_path, home_dir


@pytest.fixture
def bodies(server: Any) -> dict[str, bytes]:
    """Small stand-ins for every released checkpoint, on the server."""
    draw = np.random.default_rng(3)
    made = {name: b"PK\x03\x04" + draw.bytes(20_000 + 1000 * i) for i, name in enumerate(RELEASED)}
    for name, body in made.items():
        server.put(f"{name}.pt", body)
    return made


def document(words: list[str], capsys: pytest.CaptureFixture[str], *, code: int = 0) -> dict[str, Any]:
    """Run a command with --json and return its one document."""
    assert run(["fetch", "checkpoints", *words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_no_name_means_all_five(
    server: Any, bodies: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    found = document([], capsys)
    assert found["ok"] is True
    assert {row["name"]: row["sha256"] for row in found["files"]} == {
        name: hashlib.sha256(body).hexdigest() for name, body in bodies.items()
    }
    for row in found["files"]:
        body = bodies[row["name"]]
        assert Path(row["path"]).read_bytes() == body
        assert Path(row["path"]) == checkpoint_path(row["name"])
        assert (row["status"], row["bytes"], row["resumed_from"]) == ("fetched", len(body), 0)
        assert row["url"] == f"{server.url}/{row['name']}.pt"
    again = document([], capsys)
    assert {row["status"] for row in again["files"]} == {"already there"}
    assert len(server.gets()) == len(bodies)


def test_names_and_architectures_choose(
    server: Any, bodies: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    name = "alexnet_bn_ir"
    found = document([name, RELEASED[name].architecture, "shi_mousenet_ir"], capsys)
    assert [row["name"] for row in found["files"]] == [name, "shi_mousenet_ir"]
    assert sorted(path.name for path in home_dir().rglob("*.pt")) == [f"{name}.pt", "shi_mousenet_ir.pt"]


def test_the_table_and_home(
    server: Any, bodies: dict[str, bytes], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["fetch", "checkpoints", "alexnet_bn_ir", "--home", str(tmp_path / "h")]) == 0
    printed = capsys.readouterr()
    row = next(line for line in printed.out.splitlines() if line.startswith("alexnet_bn_ir"))
    assert row.split() == [
        "alexnet_bn_ir",
        "fetched",
        "20.0",
        "kB",
        hashlib.sha256(bodies["alexnet_bn_ir"]).hexdigest()[:12],
        "checkpoints/alexnet_bn_ir.pt",
    ]
    assert printed.err == f"downloading 20.0 kB from {server.url}\n"
    assert (tmp_path / "h" / "checkpoints" / "alexnet_bn_ir.pt").read_bytes() == bodies["alexnet_bn_ir"]


def test_a_misspelt_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fetch", "checkpoints", "alexnet_bn_ri"]) == 2
    assert "did you mean 'alexnet_bn_ir'?" in capsys.readouterr().err


def test_one_missing_file_does_not_stop_the_others(
    server: Any, bodies: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    del server.files["/dual_stream_ir.pt"]
    assert run(["fetch", "checkpoints", "--json"]) == 1
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert [row["name"] for row in found["files"] if row["status"] == "failed"] == ["dual_stream_ir"]
    assert not checkpoint_path("dual_stream_ir").exists()
    assert all(checkpoint_path(name).exists() for name in bodies if name != "dual_stream_ir")
    sizes = sum(len(body) for name, body in bodies.items() if name != "dual_stream_ir")
    assert printed.err == (
        f"downloading {format_bytes(sizes)} and 1 file of unknown size from {server.url}\n"
        f"error: {server.url}/dual_stream_ir.pt: HTTP 404: the server has no such file\n"
        f"copy a file downloaded elsewhere to {checkpoint_path('dual_stream_ir')}, "
        "or run `mvkit fetch checkpoints dual_stream_ir --from FILE`\n"
    )


def test_what_is_no_checkpoint_is_refused(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    server.put("alexnet_bn_ir.pt", b"not weights at all")
    found = document(["alexnet_bn_ir"], capsys, code=1)
    assert "not a PyTorch checkpoint" in found["files"][0]["error"]
    assert [path.name for path in checkpoint_path("x").parent.iterdir() if path.name[0] != "."] == []


@pytest.mark.parametrize("head", [b"PK\x03\x04", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."])
def test_both_checkpoint_formats_are_known_by_their_first_bytes(
    server: Any, capsys: pytest.CaptureFixture[str], head: bytes
) -> None:
    server.put("alexnet_bn_ir.pt", head + b"rest")
    assert document(["alexnet_bn_ir"], capsys)["files"][0]["bytes"] == len(head) + 4


def test_a_dry_run_reports_and_does_nothing(
    server: Any, bodies: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    document(["shi_mousenet_ir"], capsys)
    n_seen = len(server.gets())
    found = document(["--dry-run"], capsys)
    rest = sum(len(body) for name, body in bodies.items() if name != "shi_mousenet_ir")
    assert found["disk"]["needed_bytes"] == rest
    assert found["disk"]["fits"] is True
    steps = {row["name"]: (row["step"], row["size"]) for row in found["files"]}
    assert steps == {
        name: ("nothing" if name == "shi_mousenet_ir" else "download", len(body))
        for name, body in bodies.items()
    }
    assert len(server.gets()) == n_seen
    assert [path.name for path in home_dir().rglob("*.pt")] == ["shi_mousenet_ir.pt"]


def test_too_little_disk_is_refused_with_the_numbers(
    server: Any, bodies: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    server.head_length = 10**18
    assert run(["fetch", "checkpoints", "alexnet_bn_ir", "--dry-run"]) == 0
    assert "TOO LITTLE" in capsys.readouterr().out
    assert run(["fetch", "checkpoints", "alexnet_bn_ir"]) == 1
    assert "1000000.0 TB of disk are needed" in capsys.readouterr().err
    assert server.gets() == []


def test_offline_names_the_file_and_its_place(
    server: Any,
    bodies: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run(["fetch", "checkpoints", "alexnet_bn_ir"]) == 0
    capsys.readouterr()
    for words in (["--offline"], []):
        if not words:
            monkeypatch.setenv("MVKIT_OFFLINE", "1")
        assert run(["fetch", "checkpoints", "alexnet_bn_ir", "dual_stream_ir", *words]) == 1
        error = capsys.readouterr().err
        assert str(checkpoint_path("dual_stream_ir")) in error
        assert str(checkpoint_path("alexnet_bn_ir")) not in error
        assert run(["fetch", "checkpoints", "alexnet_bn_ir", *words]) == 0
        assert run(["fetch", "checkpoints", "alexnet_bn_ir", "--force", *words]) == 1
        assert "unknown" in _dry(["dual_stream_ir", *words], capsys)
    assert len(server.seen) == 2


def _dry(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert run(["fetch", "checkpoints", "--dry-run", *words]) == 0
    return capsys.readouterr().out


def test_force_fetches_again(
    server: Any, bodies: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    document(["alexnet_bn_ir"], capsys)
    server.put("alexnet_bn_ir.pt", b"PK\x03\x04new")
    document(["alexnet_bn_ir"], capsys)
    assert checkpoint_path("alexnet_bn_ir").read_bytes() == bodies["alexnet_bn_ir"]
    assert document(["alexnet_bn_ir", "--force"], capsys)["files"][0]["bytes"] == 7
    assert checkpoint_path("alexnet_bn_ir").read_bytes() == b"PK\x03\x04new"


def test_verify_reports_each_file(bodies: dict[str, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fetch", "checkpoints", "--verify"]) == 0
    assert "nothing is recorded" in capsys.readouterr().out
    document([], capsys)
    assert document(["--verify"], capsys)["ok"] is True
    body = bodies["dual_stream_ir"]
    checkpoint_path("dual_stream_ir").write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    checkpoint_path("shi_mousenet_ir").unlink()
    statuses = {
        Path(row["name"]).stem: row["status"] for row in document(["--verify"], capsys, code=1)["files"]
    }
    wrong = {"dual_stream_ir": "wrong checksum", "shi_mousenet_ir": "missing"}
    assert statuses == {name: wrong.get(name, "ok") for name in bodies}
    assert run(["fetch", "checkpoints", "--verify"]) == 1
    assert capsys.readouterr().err == (
        "error: checkpoints/dual_stream_ir.pt: wrong checksum, checkpoints/shi_mousenet_ir.pt: missing\n"
        "fetch them again with --force\n"
    )
    assert run(["fetch", "checkpoints", "--verify", "alexnet_bn_ir"]) == 0
    assert run(["fetch", "checkpoints", "--verify", "shi_mousenet_ir"]) == 1


def test_503_then_200(
    faulty: ModuleType, server: Any, bodies: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults = [faulty.Fault(status=503)]
    assert run(["fetch", "checkpoints", "alexnet_bn_ir"]) == 0
    assert "the server answered 503: trying again" in capsys.readouterr().err
    assert checkpoint_path("alexnet_bn_ir").read_bytes() == bodies["alexnet_bn_ir"]


def test_dry_run_and_verify_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fetch", "checkpoints", "--dry-run", "--verify"]) == 2


def test_files_that_were_never_fetched_are_named_as_such(
    bodies: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    document(["alexnet_bn_ir"], capsys)
    words = ["fetch", "checkpoints", "--verify", "alexnet_bn_ir", "dual_stream_ir"]
    assert run(words) == 1
    printed = capsys.readouterr()
    assert printed.err == "error: dual_stream_ir: not fetched yet (mvkit fetch checkpoints NAME)\n"
    assert "checkpoints/alexnet_bn_ir.pt" in printed.out


def test_a_dry_run_without_a_server_names_it_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MVKIT_CHECKPOINT_URL", "http://127.0.0.1:9")
    assert run(["fetch", "checkpoints", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert f"127.0.0.1:9: no connection to the server; size unknown: {', '.join(RELEASED)}\n" in out
    assert "to download: 5 files of unknown size from http://127.0.0.1:9\n" in out
    assert "disk needed: at least 0 B;" in out
    assert out.count("no connection") == 1


def test_a_checkpoint_downloaded_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine.pt"
    with zipfile.ZipFile(mine, "w") as archive:
        archive.writestr("archive/data.pkl", b"weights")
    (row,) = document(["alexnet_bn_ir", "--from", str(mine), "--offline"], capsys)["files"]
    assert (row["status"], row["path"]) == ("copied", str(checkpoint_path("alexnet_bn_ir")))
    assert checkpoint_path("alexnet_bn_ir").read_bytes() == mine.read_bytes()
    assert document(["--verify"], capsys)["ok"] is True
    assert run(["fetch", "checkpoints", "--from", str(mine), "--dry-run"]) == 2


def test_fetching_loads_no_torch(bodies: dict[str, bytes]) -> None:
    for words in (
        ["checkpoints", "--dry-run"],
        ["checkpoints", "alexnet_bn_ir"],
        ["checkpoints", "--verify"],
    ):
        code = (
            f"import sys; from mvkit.cli.main import run; code = run(['fetch', *{words!r}]); "
            "sys.exit(code or 'torch' in sys.modules or 'numpy' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (words, done.stderr)
