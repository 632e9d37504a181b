"""What wrong command lines are answered with: what is wrong, where, and what to type instead."""

from __future__ import annotations

import json
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mvkit.cli.main import run
from mvkit.neural import Recording, write_neural_file

ROOT = Path(__file__).parent.parent.parent

#: Command line -> lines of the answer, each a part of it.
ANSWERS = {
    # Words that the command line itself cannot read.
    "score pixels --splits ten": "--splits ten: give a whole number from 1 to 100,000",
    "score pixels --splits 0": "--splits 0: give a whole number from 1 to 100,000",
    "score pixels --jobs 0": "--jobs 0: give a whole number, 1 or more",
    "score pixels --seed x": "--seed x: give a whole number",
    "score pixels --map rige": "--map rige: give pls, ridge, one-to-one, lasso, elasticnet, rsa or cka; "
    "did you mean 'ridge'?",
    "score pixels --dataset": "--dataset needs a value: --dataset NAME|FILE",
    "score pixels --no-cache=3": "--no-cache takes no value",
    "score pixels --no-cash": "mvkit score has no option --no-cash; did you mean '--no-cache'?\n"
    "all options: mvkit score --help",
    "score pixels --epochs 3": "mvkit score has no option --epochs\nall options: mvkit score --help",
    "extract pixels --list-layers": "mvkit extract has no option --list-layers\n"
    "list the layers of a network: mvkit list layers MODEL",
    "extract": "mvkit extract needs MODEL\nusage: mvkit extract [OPTIONS] MODEL",
    "extract pixels foo": "unexpected 'foo'\nusage: mvkit extract [OPTIONS] MODEL",
    "models": "there is no command 'mvkit models'; did you mean 'mvkit list models'?",
    "recipes": "there is no command 'mvkit recipes'; did you mean 'mvkit list recipes'?",
    "layers": "there is no command 'mvkit layers'; did you mean 'mvkit list layers'?",
    "scor": "there is no command 'mvkit scor'; did you mean 'mvkit score'?\nvalid: fetch, list, ",
    "list foo": "there is no command 'mvkit list foo'\nvalid: models, layers, recipes, datasets; ",
    "fetch neural": "fetch neural needs --dataset: neuropixels, calcium, simulated or all",
    "fetch neural --dataset neuropixel": "--dataset neuropixel: give neuropixels, calcium, simulated or "
    "all; did you mean 'neuropixels'?",
    "fetch neural --dataset calcium --source alensdk": "--source alensdk: give published or allensdk; "
    "did you mean 'allensdk'?",
    "fetch neural --dataset calcium --window-ms 0": "--window-ms needs 2 values: --window-ms START STOP",
    "fetch neural --dataset calcium --window-ms 0 x": "--window-ms x: give 2 numbers",
    "fetch neural --dataset calcium --dry-run --verify": "--dry-run and --verify contradict each other",
    "fetch reliability mine.h5 --halves x": "--halves x: give a whole number, 1 or more",
    "prep demo --on-error foo": "--on-error foo: give fail or skip",
    "prep demo": "prep needs --images DIR (the folder of your images): mvkit prep RECIPE --images DIR",
    "cache prune": "mvkit cache prune needs RULE\nusage: mvkit cache prune [OPTIONS] RULE",
    "--foo": "mvkit has no option --foo\nall options: mvkit --help",
    # Keys and values of recipes.
    "score pixels --set n_splits=ten": "--set n_splits=ten: give a whole number from 1 to 100,000",
    "score pixels --halves 360000000000": "--halves 360000000000: give a whole number from 1 to 100,000",
    "score pixels --map ridge --set ridge_alpha=-1": "--set ridge_alpha=-1: give a number above 0, or cv,",
    "score pixels --map ridge --set ridge_alpha=abc": "--set ridge_alpha=abc: give a number above 0, or "
    "cv, got 'abc'",
    "score pixels --set train_fraction=2": "--set train_fraction=2: give a number above 0 and below 1",
    "score pixels --set cka_debiased=no": "--set cka_debiased=no: give true or false, got 'no'",
    "score pixels --set nsplits=3": "--set nsplits=3: unknown key; did you mean 'n_splits'?",
    "score pixels --set time_window_ms=[0,1]": "--set time_window_ms=[0,1]: unknown key; all: mvkit "
    "recipe show score/paper",
    "score pixels --splits 3 --set n_splits=4": "--splits 3 contradicts --set n_splits=4: give one",
    "score pixels --map rsa --splits 3": "--splits 3 has no effect: rsa compares all images at once",
    "score pixels --map rsa --set n_components=10": "--set n_components=10 has no effect: it belongs to "
    "pls, and the map is rsa",
    "score pixels --recipe fastt": "recipe 'fastt' is neither a file nor a scoring recipe\npackaged: ",
    "train demo --set 'evaluate=['": "--set evaluate=[: the value is not complete",
    "train demo --set optimiser.learning_rate=0": "--set optimiser.learning_rate=0: give a number above 0",
    # Models and their layers.
    "score": "no MODEL to score: name at least one; all: mvkit list models",
    "score pixel": "unknown model 'pixel'; did you mean 'pixels'?\nall: mvkit list models",
    "score alexnet_bn_ir --weights random --layers features.0 features.3": "features.3 is a layer of "
    "alexnet_bn_ir, not a model\nseparate layers by commas: --layers features.0,features.3",
    "score alexnet_bn_ir --weights random --layers 'features.3 features.7'": "unknown layer 'features.3 "
    "features.7': separate layers by commas, features.3,features.7",
    "score alexnet_bn_ir --weights my.npz": "my.npz is a NumPy archive; weights are .pt, .pth or "
    ".safetensors files",
    "score log.jsonl": "log.jsonl is a text; weights are .pt, .pth or .safetensors files",
    "list layers alexnet_bn_r": "unknown model 'alexnet_bn_r'; did you mean 'alexnet_bn_ir'?",
    "extract gabor --out g.csv": "g.csv: features are written as .h5 or .npz",
    # Recordings, files, folders, devices.
    "score pixels --dataset nofile.h5": "nofile.h5: no such neural file in {folder}",
    "score pixels --dataset mien.h5": "did you mean 'mine.h5'?",
    "score pixels --dataset features.h5": "features.h5: a feature file, and this needs recordings",
    "score pixels --dataset neuropixel": "unknown dataset 'neuropixel'; did you mean 'neuropixels'?",
    "score pixels --dataset mine.h5 --areas VISq": "unknown area 'VISq'; did you mean 'VISp'?\nvalid: VISp",
    "score pixels --dataset simulated --areas VISq": "unknown area 'VISq'; did you mean 'VISp'?\n"
    "valid: VISp, VISl, VISal, VISpm, VISrl, VISam",
    "score pixels --areas ''": "--areas names nothing: give names with commas between",
    "score pixels --out mine.h5": "mine.h5 is a file; give a folder",
    "score pixels --device gpu": "device gpu: give auto, cpu, cuda, or cuda:1 for the second GPU",
    "fetch reliability nofile.h5": "nofile.h5: no such neural file in {folder}",
    "prep --verify nosuch.beton": "nosuch.beton: no such file; make it with `mvkit prep`",
    "prep --verify features.h5": "features.h5: is no .beton file (an HDF5 file: features or recordings?)",
    "train mynet.py": "'mynet.py' is Python, and a recipe is YAML\nto score a network of your own: mvkit "
    "score mynet.py:FUNCTION",
    "train demo --images my.npz": "my.npz is a file; --images takes a folder of betons or images",
    "train demo --images empty": "empty: no images for 'train': no train.beton and no train/CLASS/*.jpg",
    "recipe show honst": "did you mean 'score/honest'?",
    "recipe copy honest mine.h5": "mine.h5: a recipe's name ends in .yaml",
    "recipe copy honest old.yaml": "old.yaml exists, and is not replaced: give another name",
    "recipe check old.yaml": "old.yaml:2: n_splits: give a whole number from 1 to 100,000, got 'ten'\n"
    "old.yaml:3: mappin: unknown key; did you mean 'mapping'?",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: recordings, features, an archive, a log, a network, a recipe with two errors."""
    import h5py

    monkeypatch.chdir(tmp_path)
    responses, images = np.ones((2, 4, 3), np.float32), np.zeros((4, 8, 8), np.uint8)
    recording = Recording(area="VISp", specimen=1, unit_ids=np.arange(3), responses=responses)
    write_neural_file(tmp_path / "mine.h5", recordings=[recording], stimuli=images, units_of_measure="spikes")
    with h5py.File(tmp_path / "features.h5", "w") as file:
        file.attrs["mvkit_format"] = "mvkit-features"
    np.savez(tmp_path / "my.npz", a=np.arange(3))
    (tmp_path / "log.jsonl").write_text("{}\n")
    (tmp_path / "mynet.py").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "old.yaml").write_text("base: score/quick\nn_splits: ten\nmappin: pls\n")
    return tmp_path


def test_answers_say_what_is_wrong_and_what_to_type(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # One test, since the files of the folder take longer than the answers.
    wrong = []
    for words, expected in ANSWERS.items():
        code = run(shlex.split(words))
        shown = capsys.readouterr()
        is_answered = shown.err.startswith("error: ") and expected.format(folder=folder) in shown.err
        if not is_answered or code not in (1, 2) or shown.out:
            wrong.append((words, code, shown.err, shown.out))
        n_lines = len(shown.err.splitlines())
        assert n_lines <= 2, f"{words}: {n_lines} lines:\n{shown.err}"
    assert not wrong, "\n".join(map(str, wrong))


def test_with_json_an_answer_is_one_document(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ("score pixels --splits ten", "score pixel", "recipe check old.yaml", "models", "extract"):
        code = run([*shlex.split(words), "--json"])
        error = json.loads(capsys.readouterr().out)["error"]
        assert code == 2
        assert error["message"].startswith(ANSWERS[words])
        assert error["type"] == ("RecipeError" if words.startswith("recipe") else "UsageError")


def test_answers_come_before_anything_heavy_is_imported(folder: Path) -> None:
    startup = runpy.run_path(str(ROOT / "benchmarks" / "startup.py"))
    lines = [line for group in startup["COMMANDS"].values() for line in group]
    code = f"""
import sys
from mvkit.cli.main import run
def check(lines, names):
    for line in lines:
        run(line.split())
        heavy = sorted(set(names) & set(sys.modules))
        assert not heavy, (line, heavy)
check({lines!r}, ["torch", "numba", "pandas", "scipy", "xarray", "matplotlib"])
check({startup["WITHOUT_TORCH"]!r}, ["torch"])
"""
    environment = {"MVKIT_HOME": str(folder / "home"), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_the_system_refuses_names_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mvkit.files import describe_error

    temporary = "/sys/x.tmp-5bce98f7-17002-762aaccb.png"
    assert (
        describe_error(PermissionError(13, "Permission denied", temporary)) == "/sys/x.png: permission denied"
    )
    reason = (
        "Unable to synchronously create file (unable to open file: "
        "name = '/sys/x.tmp-5bce98f7-17002-4af3.h5', errno = 13, error message = 'Permission denied', "
        "flags = 13, o_flags = 242)"
    )
    assert describe_error(OSError(reason)) == "/sys/x.h5: permission denied"


COMMANDS = ["score", "extract", "train", "prep", "cache info", "cache prune"]
COMMANDS += [f"fetch {name}" for name in ("checkpoints", "neural", "reliability", "allensdk")]
COMMANDS += [f"list {name}" for name in ("models", "layers", "recipes", "datasets")]
COMMANDS += [f"recipe {name}" for name in ("show", "copy", "check")]


@pytest.mark.parametrize("words", COMMANDS)
def test_every_page_of_help_has_examples_that_begin_with_the_command(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words.split(), "-h"]) == 0
    page = capsys.readouterr().out
    examples, learn_more = page.split("\nExamples:\n")[1].split("\nLearn more:\n")
    lines = examples.strip().splitlines()
    assert len(lines) >= 2
    assert all(line.strip().startswith("mvkit ") for line in lines)
    assert any(line.strip().startswith(f"mvkit {words}") for line in lines)
    assert learn_more.strip()
    options = page.split("\nExamples:")[0]
    for leak in ("<str>", "<int", "<list", "{FILE}", "{MODEL}", "[x>=", "[[", "TEXT"):
        assert leak not in options, leak
    if "--home" in options:
        assert "env: MVKIT_HOME; default:" in " ".join(options.split())
