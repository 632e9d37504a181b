"""Errors of ``mvkit train``: wording, and that they come before torch is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mvkit.cli.main import run

#: Word of the command line -> the error.
MISTAKES = {
    "NOSUCH": "recipe 'NOSUCH' is neither a file nor a packaged recipe\npackaged: alexnet_barlow_twins, ",
    "duel_stream_ir": "did you mean 'dual_stream_ir'?",
    "recipes/dem.yaml": "did you mean 'demo'?",
    "score/quick": "score/quick is a scoring recipe: mvkit score MODEL --recipe quick",
    "prep/demo": "prep/demo is a recipe of images: mvkit prep demo",
    "net.py:Net": "'net.py:Net' is Python, and a recipe is YAML\n"
    "to score a network of your own: mvkit score net.py:FUNCTION",
    "demo --set train.epoch=3": "--set train.epoch=3: unknown key; did you mean 'epochs'?",
    "demo --set train.epochs=x": "--set train.epochs=x: give a whole number, 1 or more, got 'x'",
    "demo --set evaluate=[": "--set evaluate=[: the value is not complete",
    "demo --set model.architecture=alexnet": "model.architecture: unknown network 'alexnet'; "
    "did you mean alexnet_encoder or alexnet_classifier?\nall: mvkit list models",
    "demo --set views.views=[]": "views.views",
    "demo --device gpu": "device gpu: give auto, cpu, cuda, or cuda:1 for the second GPU",
    "demo --images nowhere": "nowhere: no such folder (--images)\nprepare the images first: mvkit prep demo ",
    "demo --images setup.py": "setup.py is a file; --images takes a folder of betons or images",
    "demo": "the images of recipe demo are not prepared yet (no folder ",
    "demo --epochs 3": "no option --epochs; recipe keys are set with --set train.epochs=3",
    "demo --lr=0.1": "no option --lr; recipe keys are set with --set optimiser.learning_rate=0.1",
    "demo --batch-size": "no option --batch-size; recipe keys are set with --set train.batch_size=VALUE",
    "demo --precision fp8": "--precision fp8: give fp32, bf16 or fp16; did you mean 'fp32'?",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_errors_say_what_to_do(words: str, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MVKIT_HOME", str(tmp_path))
    (tmp_path / "setup.py").touch()
    assert run(["train", *words.split()]) != 0
    assert MISTAKES[words] in capsys.readouterr().err


def test_a_packaged_recipe_given_by_its_path_in_the_repository(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["train", "recipes/demo.yaml"]) == 2
    message = "error: no file recipes/demo.yaml here; the packaged recipe is called demo\n"
    assert capsys.readouterr().err == message


def test_other_wrong_options_are_answered_as_everywhere(capsys) -> None:
    assert run(["train", "demo", "--proceses", "2"]) == 2
    assert "mvkit train has no option --proceses; did you mean '--processes'?" in capsys.readouterr().err


def test_neither_recipes_nor_errors_import_torch(tmp_path) -> None:
    code = f"""
import sys
from mvkit.cli.main import run
from mvkit.recipes import load_recipe, packaged_recipes
from mvkit.training.recipe import TrainRecipe
for name in packaged_recipes():
    if "/" not in name:
        load_recipe(TrainRecipe, name)
for words in {[*MISTAKES, "NOSUCH --dry-run", "demo --device gpu --dry-run", "NOSUCH --processes 2"]!r}:
    assert run(["train", *words.split()]) != 0, words
loaded = [name for name in ("torch", "numba", "pandas", "scipy") if name in sys.modules]
assert not loaded, loaded
"""
    environment = {"MVKIT_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path)


def test_importing_mvkit_loads_neither_torch_nor_numpy() -> None:
    code = "import sys, mvkit; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
