"""Processes of `mvkit fetch` that are killed, interrupted, doubled, or run out of disk."""

from __future__ import annotations

import json
import random
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mvkit.cli.main import run
from mvkit.fetch.download import DownloadSettings, PartialFile
from mvkit.paths import checkpoint_path

NAME = "six_stream_simclr"
WORDS = ("fetch", "checkpoints", NAME, "--json")
BLOCK = DownloadSettings().block_bytes
Start = Callable[..., Any]
Kill = Callable[[int, Any], None]
Wait = Callable[..., None]


@pytest.fixture
def body(server: Any) -> bytes:
    """A checkpoint of 300 kB on the server."""
    made = b"PK\x03\x04" + np.random.default_rng(8).bytes(300_000)
    server.put(f"{NAME}.pt", made)
    return made


@pytest.fixture
def kill_at(wait_until: Callable[..., None]) -> Callable[[int, Any], None]:
    """Kills a process, without warning, when it has received so much."""

    def kill(n_bytes: int, process: Any) -> None:
        wait_until(lambda: PartialFile(checkpoint_path(NAME)).n_bytes() >= n_bytes, process)
        process.kill()
        process.wait(timeout=30)

    return kill


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a process that ends by itself."""
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_a_random_point_of_the_download(
    faulty: ModuleType, server: Any, body: bytes, mvkit_process: Start, kill_at: Kill, seed: int
) -> None:
    target = checkpoint_path(NAME)
    partial = PartialFile(target)
    strike = random.Random(seed).randrange(BLOCK, len(body))
    server.faults = [faulty.Fault(hold_at=strike)]
    kept = strike // BLOCK * BLOCK
    kill_at(kept, mvkit_process(*WORDS))
    assert not target.exists()
    assert partial.n_bytes() == kept
    code, out, err = finished(mvkit_process(*WORDS))
    assert code == 0, err
    assert target.read_bytes() == body
    assert json.loads(out)["files"][0]["resumed_from"] == kept
    assert server.gets()[-1].headers["Range"] == f"bytes={kept}-"
    assert not partial.path.exists()


def test_killed_again_and_again_with_a_change_on_the_server(
    faulty: ModuleType, server: Any, body: bytes, mvkit_process: Start, kill_at: Kill
) -> None:
    target = checkpoint_path(NAME)
    for received in (1, 2):
        server.faults = [faulty.Fault(hold_at=BLOCK)]
        kill_at(received * BLOCK, mvkit_process(*WORDS))
        assert not target.exists()
    new = body[:10] + body[:9:-1]
    server.put(f"{NAME}.pt", new)
    code, out, err = finished(mvkit_process(*WORDS))
    assert code == 0, err
    assert target.read_bytes() == new
    assert json.loads(out)["files"][0]["resumed_from"] == 0


def test_ctrl_c_ends_with_130_and_keeps_what_was_received(
    faulty: ModuleType, server: Any, body: bytes, mvkit_process: Start, wait_until: Wait
) -> None:
    partial = PartialFile(checkpoint_path(NAME))
    server.faults = [faulty.Fault(hold_at=2 * BLOCK)]
    process = mvkit_process(*WORDS)
    kept = 2 * BLOCK
    wait_until(lambda: partial.n_bytes() >= kept, process)
    process.send_signal(signal.SIGINT)
    code, out, err = finished(process)
    assert (code, out) == (130, "")
    assert f"{NAME}.pt: stopped; run the same command again: it goes on after the 131.1 kB received" in err
    assert "Traceback" not in err
    assert partial.n_bytes() == kept
    assert run(list(WORDS)) == 0
    assert server.gets()[-1].headers["Range"] == f"bytes={kept}-"
    assert checkpoint_path(NAME).read_bytes() == body


def test_two_at_once_download_once(
    faulty: ModuleType, server: Any, body: bytes, mvkit_process: Start, wait_until: Wait
) -> None:
    server.faults = [faulty.Fault(hold_at=BLOCK)]
    first = mvkit_process(*WORDS)
    wait_until(lambda: PartialFile(checkpoint_path(NAME)).n_bytes() >= BLOCK, first)
    second = mvkit_process(*WORDS)
    assert next(second.stderr).startswith("downloading ")
    assert next(second.stderr) == f"another mvkit process is working on {NAME}.pt: waiting for it to finish\n"
    server.released.set()
    ends = [finished(first), finished(second)]
    assert [code for code, _, _ in ends] == [0, 0], ends
    rows = [json.loads(out)["files"][0] for _, out, _ in ends]
    assert [row["status"] for row in rows] == ["fetched", "already there"]
    assert rows[0]["sha256"] == rows[1]["sha256"]
    assert checkpoint_path(NAME).read_bytes() == body
    assert len(server.gets()) == 1


def test_when_the_first_of_two_is_killed_the_second_goes_on(
    faulty: ModuleType, server: Any, body: bytes, mvkit_process: Start, wait_until: Wait
) -> None:
    server.faults = [faulty.Fault(hold_at=BLOCK)]
    first = mvkit_process(*WORDS)
    wait_until(lambda: PartialFile(checkpoint_path(NAME)).n_bytes() >= BLOCK, first)
    second = mvkit_process(*WORDS)
    assert next(second.stderr).startswith("downloading ")
    assert "another mvkit process" in next(second.stderr)
    first.kill()
    first.wait(timeout=30)
    code, out, err = finished(second)
    assert code == 0, err
    assert json.loads(out)["files"][0]["resumed_from"] == BLOCK
    assert checkpoint_path(NAME).read_bytes() == body


def test_a_disk_that_fills_up(server: Any, body: bytes, mvkit_process: Start, tmp_path: Path) -> None:
    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

    partial = PartialFile(checkpoint_path(NAME))
    code, out, err = finished(mvkit_process(*WORDS, preexec_fn=small_files_only))
    assert code == 1
    assert "the disk is full" in err
    assert "Traceback" not in err
    assert json.loads(out)["files"][0]["status"] == "failed"
    assert not checkpoint_path(NAME).exists()
    kept = partial.n_bytes()
    assert kept == 150_000
    assert run(list(WORDS)) == 0
    assert server.gets()[-1].headers["Range"] == f"bytes={kept}-"
    assert checkpoint_path(NAME).read_bytes() == body
