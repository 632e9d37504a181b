"""`mvkit extract` as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mvkit
from mvkit.cli.main import run
from mvkit.features import read_features
from mvkit.models.registry import RELEASED

ALEXNET = ["extract", "alexnet_bn_ir", "--weights", "random"]


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    """Three colour images of different sizes."""
    place = tmp_path / "images"
    place.mkdir()
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate([(70, 80), (64, 64), (300, 90)]):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"image{number}.png")
    return place


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run a command that must fail and return its code and what it said."""
    code = run(words)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    return code, printed.err


def test_the_simulated_stimuli_are_the_default_and_the_fetch_command_is_named(tmp_path, capsys):
    out = tmp_path / "gabor.h5"
    assert run(["extract", "gabor", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "mvkit fetch neural --dataset neuropixels" in printed.err
    assert str(out) in printed.out
    stored = read_features(out)
    assert (stored.provenance.stimuli, stored.model_name) == ("simulated", "gabor")
    assert list(stored) == list(mvkit.load_model("gabor").layers)
    assert stored.n_images == 118


def test_a_folder_of_images_and_several_patterns(tmp_path, folder, capsys):
    out = tmp_path / "alexnet.h5"
    words = [*ALEXNET, "--seed", "3", "--stimuli", str(folder), "--out", str(out), "--json"]
    assert run([*words, "-l", "classifier.3,features.3", "-l", "re:features\\.1[03]", "--threads", "1"]) == 0
    document = json.loads(capsys.readouterr().out)
    expected = mvkit.extract(mvkit.load_model("alexnet_bn_ir", weights="random", seed=3), folder)
    names = ["features.3", "features.10", "features.13", "classifier.3"]
    assert [layer["name"] for layer in document["layers"]] == names
    assert [layer["shape"] for layer in document["layers"]] == [
        list(expected.shape_of(name)) for name in names
    ]
    assert document["file"] == str(out)
    assert document["weights_id"] == "random:seed=3"
    assert document["n_images"] == 3
    stored = read_features(out)
    assert stored.image_ids == ("image0.png", "image1.png", "image2.png")
    for name in names:
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(stored[name], expected[name], rtol=0, atol=1e-6 * scale)


def test_wrong_names_and_values_are_refused_with_the_way_out(tmp_path, folder, capsys):
    out = ["--stimuli", str(folder), "--out", str(tmp_path / "f.h5")]
    code, said = refused([*ALEXNET, *out, "-l", "featurs.3"], capsys)
    assert (code, "did you mean 'features.3'" in said, "all: mvkit list layers" in said) == (2, True, True)
    code, said = refused(["extract", "alexnet", *out], capsys)
    assert (code, "unknown model 'alexnet'; did you mean" in said) == (2, True)
    pixels = ["extract", "pixels"]
    code, said = refused([*pixels, "--stimuli", str(folder)], capsys)
    assert (code, "extract needs --out FILE (.h5 or .npz)" in said) == (2, True)
    code, said = refused([*pixels, *out, "--device", "warp"], capsys)
    assert (code, "device warp: give auto, cpu, cuda, or cuda:1" in said) == (2, True)
    code, said = refused([*pixels, "--stimuli", "nowhere", *out[2:]], capsys)
    assert (code, "stimuli 'nowhere'" in said) == (2, True)
    assert not (tmp_path / "f.h5").exists()


@pytest.mark.parametrize("name", list(RELEASED))
def test_weights_that_were_not_fetched_name_the_command(tmp_path, folder, capsys, name):
    words = ["extract", name, "--stimuli", str(folder), "--out", str(tmp_path / "f.h5")]
    code, said = refused(words, capsys)
    assert code == 1
    assert f"mvkit fetch checkpoints {name}" in said


def test_an_existing_file_is_kept_unless_forced(tmp_path, folder, capsys):
    out = tmp_path / "f.h5"
    out.write_text("precious")
    words = ["extract", "pixels", "--stimuli", str(folder), "--out", str(out)]
    code, said = refused(words, capsys)
    assert (code, "exists already" in said, "--force" in said) == (2, True, True)
    assert out.read_text() == "precious"
    assert run([*words, "--force"]) == 0
    assert list(read_features(out)) == ["pixels"]


def test_a_damaged_image_is_named_and_nothing_is_written(tmp_path, folder, capsys):
    (folder / "image1.png").write_bytes(b"<html>")
    words = ["extract", "pixels", "--stimuli", str(folder), "--out", str(tmp_path / "f.h5"), "--json"]
    assert run(words) == 1
    printed = capsys.readouterr()
    assert "image1.png" in json.loads(printed.out)["error"]["message"]
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_the_installed_command_keeps_json_alone_on_stdout(tmp_path, folder):
    words = ["extract", "pixels", "--stimuli", str(folder), "--out", str(tmp_path / "f.h5"), "--json"]
    program = [sys.executable, "-c", "from mvkit.cli.main import main; main()"]
    done = subprocess.run([*program, *words], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["stimuli"] == "images"


def test_npz_by_its_name_or_by_the_option_holds_what_hdf5_holds(tmp_path, folder, capsys):
    words = ["extract", "gabor", "--stimuli", str(folder), "--json"]
    assert run([*words, "--out", str(tmp_path / "f.h5"), "--format", "h5"]) == 0
    capsys.readouterr()
    assert run([*words, "--out", str(tmp_path / "f.npz")]) == 0
    assert run([*words, "--out", str(tmp_path / "named"), "--format", "npz"]) == 0
    assert '"file": "' + str(tmp_path / "named.npz") in capsys.readouterr().out
    expected = read_features(tmp_path / "f.h5")
    with np.load(tmp_path / "f.npz", allow_pickle=False) as stored:
        np.testing.assert_array_equal(stored["energy"], expected["energy"])
        assert stored["image_ids"].tolist() == list(expected.image_ids)
    assert read_features(tmp_path / "f.npz").provenance == expected.provenance
    assert (tmp_path / "named.npz").read_bytes() == (tmp_path / "f.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.h5", "f.npz", "images", "named.npz"]


def test_formats_that_contradict_the_name_are_refused(tmp_path, folder, capsys):
    words = ["extract", "pixels", "--stimuli", str(folder)]
    code, said = refused([*words, "--out", str(tmp_path / "f.npz"), "--format", "h5"], capsys)
    assert (code, "format h5 asked for, but the name ends in .npz" in said) == (2, True)
    code, said = refused([*words, "--out", str(tmp_path / "f.csv")], capsys)
    assert (code, "f.csv: features are written as .h5 or .npz" in said) == (2, True)
    code, said = refused([*words, "--out", str(tmp_path / "f"), "--format", "zarr"], capsys)
    assert (code, "unknown format 'zarr'" in said, "valid: h5, npz" in said) == (2, True, True)
    (tmp_path / "f.npz").write_text("precious")
    code, said = refused([*words, "--out", str(tmp_path / "f"), "--format", "npz"], capsys)
    assert (code, "f.npz: exists already" in said) == (2, True)


def test_exported_weights_give_the_same_features(tmp_path, folder, capsys):
    network = ["extract", "single_stream_encoder"]
    target = tmp_path / "w.safetensors"
    export = [*network, "--weights", "random", "--seed", "4", "--export-weights", str(target)]
    assert run([*export, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["file"], document["metadata"]["source"]) == (str(target), "random, seed 4")
    out = ["--stimuli", str(folder), "--out", str(tmp_path / "f.h5")]
    assert run([*network, "--weights", str(target), *out]) == 0
    expected = mvkit.extract(mvkit.load_model(network[1], weights="random", seed=4), folder)
    stored = read_features(tmp_path / "f.h5")
    assert list(stored) == list(expected)
    for layer, values in expected.items():
        np.testing.assert_array_equal(stored[layer], values)
    before = target.read_bytes()
    capsys.readouterr()
    code, said = refused(export, capsys)
    assert (code, "w.safetensors: exists already" in said, "--force" in said) == (2, True, True)
    assert run([*export, "--force"]) == 0
    assert target.read_bytes() == before
    assert f"wrote {target}" in capsys.readouterr().out
    code, said = refused([*export, "--force", *out, "-l", "VISp"], capsys)
    assert (code, "leave out --out, --layers, --stimuli" in said) == (2, True)
    target.write_bytes(before[:-9])
    code, said = refused([*network, "--weights", str(target), *out, "--force"], capsys)
    assert (code, "not a readable safetensors file" in said, said.count("\n")) == (1, True, 2)


def test_names_that_are_no_text_on_a_terminal_of_ascii(folder: Path) -> None:
    place = folder.parent / os.fsdecode(b"st\xef\xc3\xbcm")
    folder.rename(place)
    (place / "image0.png").rename(place / os.fsdecode(b"caf\xe9.png"))
    (place / "image1.png").rename(place / "é\U0001f400.png")
    words = ["extract", "pixels", "--stimuli", place, "--layers", "*", "--out", place / "f.h5"]
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", "from mvkit.cli.main import main; main()", *map(os.fsencode, words)],
        capture_output=True,
        check=False,
        env={**os.environ, **ascii_only},
    )
    assert (done.returncode, done.stderr) == (0, b"pixels: images at 64 px\n")
    assert done.stdout.isascii()
    features = read_features(place / "f.h5")
    assert features.image_ids == (r"caf\xe9.png", "image2.png", "é\U0001f400.png")
    assert features.provenance.stimuli == r"st\xefüm"
