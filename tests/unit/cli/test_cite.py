"""`mvkit cite` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mvkit.cli.main import run


def test_bibtex_goes_to_a_file_and_notes_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cite", "alexnet_bn_ir", "net.py:build"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(
        "% the measure, the released networks and their training\n@article{nayebi2023"
    )
    assert "% instance recognition\n@inproceedings{wu2018unsupervised,\n" in printed.out
    assert printed.err == "net.py:build: code of your own; add the paper of the network\n"


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cite", "calcium", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [entry["key"] for entry in document["citations"]][2:] == ["devries2020large", "allen2016calcium"]
    assert set(document["citations"][0]) == {"key", "type", "purpose", "text", "bibtex"}
    assert document["notes"] == []


def test_a_wrong_name_is_answered_with_the_likely_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cite", "neuropixel"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: unknown name 'neuropixel'; did you mean 'neuropixels'?\nnear: neuropixels"
    )


def test_no_heavy_library_is_loaded() -> None:
    code = (
        "import sys; from mvkit.cli.main import run; run(['cite', 'dual_stream_ir', 'neuropixels']); "
        "heavy = ('torch', 'numpy', 'pandas', 'h5py'); "
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
