"""What is cited for names, folders of scores and training runs; the bibliography itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import mvkit
from mvkit.errors import UsageError
from mvkit.fetch.catalogue import RECORDINGS
from mvkit.models.registry import PAPER, RELEASED, SHI_PAPER, list_models
from mvkit.objectives.registry import OBJECTIVES
from mvkit.pipeline import citations
from mvkit.pipeline.citations import cite
from mvkit.recipes import load_recipe, packaged_recipes
from mvkit.training.checkpoint import write_recipe
from mvkit.training.recipe import TrainRecipe

ROOT = Path(__file__).parents[3]
HEADER = "model,weights,dataset,layer,score\n"


def keys(*names: str | Path) -> list[str]:
    return [entry.key for entry in cite(names).entries]


def write_scores(folder: Path, *rows: str, mapping: str = "pls") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.csv").write_text(HEADER + "".join(f"{row},x,.5\n" for row in rows))
    (folder / "summary.json").write_text(f'{{"settings": {{"mapping": "{mapping}"}}}}')
    return folder


def test_the_basics_are_paper_software_and_recordings() -> None:
    basics = ["nayebi2023mouse", "mvkit", "siegle2021survey", "allen2019neuropixels"]
    assert keys() == [*basics, "devries2020large", "allen2016calcium"]


def test_a_released_network_and_its_recordings() -> None:
    always = ["nayebi2023mouse", "mvkit"]
    trained = ["wu2018unsupervised", "russakovsky2015imagenet"]
    assert keys("alexnet_bn_ir", "neuropixels") == [
        *[*always, "krizhevsky2012imagenet", *trained],
        *["siegle2021survey", "allen2019neuropixels"],
    ]
    assert keys("shi_mousenet_ir") == [*always, "shi2022mousenet", *trained]
    assert keys("six_stream_simclr") == [*always, "chen2020simple", "russakovsky2015imagenet"]
    assert keys("pixels", "gabor", "simulated") == always


def test_architectures_by_all_their_names() -> None:
    assert "simonyan2015very" in keys("vgg16_classifier")
    assert "he2016deep" in keys("resnet50_64x64_input")
    assert "wu2018unsupervised" not in keys("alexnet_bn_ir_64x64_input_pool_6"), (
        "weights are named by release"
    )


def test_networks_from_elsewhere() -> None:
    cited = cite(["torchvision:resnet18", "timm:vgg16.tv_in1k", "timm:vit_small", "net.py:build"])
    assert [entry.key for entry in cited.entries][2:] == [
        *["torchvision2016", "he2016deep", "wightman2019timm", "simonyan2015very"]
    ]
    assert cited.notes == (
        "timm:vit_small: add the paper of the network, which timm's documentation names",
        "net.py:build: code of your own; add the paper of the network",
    )


def test_recipes_are_cited_by_what_they_train_on_and_measure() -> None:
    assert {"zhang2017physically", "leclerc2023ffcv"} <= set(keys("dual_stream_depth"))
    assert {"chen2020improved", "krizhevsky2012imagenet"} <= set(keys("alexnet_mocov2"))
    assert keys("paper_rsa")[2:] == ["kriegeskorte2008representational"]
    assert keys("score/paper") == ["nayebi2023mouse", "mvkit"]


def test_every_packaged_recipe_model_dataset_and_objective_can_be_cited() -> None:
    names = (*packaged_recipes(), *list_models(), *RECORDINGS, *OBJECTIVES)
    assert cite(names).notes == ()
    assert set(citations._OBJECTIVES) == set(OBJECTIVES)
    assert {row.objective for row in RELEASED.values()} == set(citations._RELEASED_OBJECTIVES)


def test_saved_scores(tmp_path: Path) -> None:
    one = write_scores(tmp_path / "one", "alexnet_bn_ir,https://x/alexnet_bn_ir.pt,calcium", mapping="cka")
    assert keys(one)[2:] == [
        *["krizhevsky2012imagenet", "wu2018unsupervised", "russakovsky2015imagenet"],
        *["devries2020large", "allen2016calcium", "kornblith2019similarity"],
    ]
    write_scores(one / "ceiling", "ceiling (holdout),,calcium")
    assert cite([one]).notes == ()
    # Weights drawn at random were trained for nothing.
    drawn = write_scores(tmp_path / "drawn", '"alexnet_bn_ir (random, seed 0)","random, seed 0",simulated')
    assert keys(drawn)[2:] == ["krizhevsky2012imagenet"]


def test_scores_of_several_models_and_a_data_set_of_ones_own(tmp_path: Path) -> None:
    write_scores(tmp_path / "vgg16_encoder", "vgg16_encoder,,mine")
    write_scores(tmp_path / "other", "lost_model,,mine", "timm:resnet50,,mine")
    write_scores(tmp_path / "ceiling", "ceiling (holdout),,mine")
    cited = cite([tmp_path])
    assert {"simonyan2015very", "he2016deep", "wightman2019timm"} <= {entry.key for entry in cited.entries}
    assert cited.notes == (
        "lost_model: no such model or training run here; add what it is, e.g. mvkit cite RECIPE",
        "mine: recordings of your own; add where they come from",
    )


def test_training_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    changes = ["model.architecture=resnet18_encoder", "data.images=cifar10"]
    write_recipe(run, load_recipe(TrainRecipe, "alexnet_vicreg", changes))
    (run / "last.pt").touch()
    expected = ["he2016deep", "bardes2022vicreg", "krizhevsky2009learning", "leclerc2023ffcv"]
    assert keys(run)[2:] == expected
    monkeypatch.chdir(tmp_path)
    assert keys(write_scores(tmp_path / "scores", "runs/mine,training run,simulated"))[2:] == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("alexnet_bn_ri", "unknown name 'alexnet_bn_ri'; did you mean 'alexnet_bn_ir'?"),
        ("missing/folder", "missing/folder: not a folder of saved scores or of a training run, nor a recipe"),
    ],
)
def test_what_cannot_be_cited(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        cite([name])


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"neither saved scores .* nor a training run"):
        cite([tmp_path])


def test_the_bibliography_is_well_formed() -> None:
    text = (ROOT / "mvkit" / "pipeline" / "references.bib").read_text(encoding="utf-8")
    assert text.isascii(), "every BibTeX reads it"
    entries = citations._references()
    assert len(entries) == len(re.findall(r"^@", text, re.M))
    tables = (citations._DATASETS, citations._OBJECTIVES, citations._IMAGES, citations._TOOLS)
    used = {key for table in tables for group in table.values() for key in group}
    used |= {*citations._FAMILIES.values(), *citations._ALWAYS, "shi2022mousenet"}
    assert used == set(entries)
    where = {"article": "journal", "inproceedings": "booktitle", "techreport": "institution"}
    for entry in entries.values():
        assert entry.bibtex.count("{") == entry.bibtex.count("}"), entry.key
        required = {"author", "title", "year", *([where[entry.kind]] if entry.kind in where else [])}
        assert required <= set(entry.fields), entry.key
        assert len(entry.fields) == entry.bibtex.count("\n") - 1, f"{entry.key}: a field a line"
        assert not re.search(r"[{}]|\\", entry.text), entry.text


def test_references_agree_with_what_else_is_said_of_them() -> None:
    entries = {entry.key: entry for entry in cite(["shi_mousenet_ir"]).entries}
    for key, line in (("nayebi2023mouse", PAPER), ("shi2022mousenet", SHI_PAPER)):
        fields = entries[key].fields
        assert fields["title"].replace("{", "").replace("}", "") in line
        assert f"{fields['volume']}({fields['number']}): {fields['pages']}" in line
    assert entries["mvkit"].fields["version"] == mvkit.__version__


def test_a_reference_as_a_sentence() -> None:
    entries = {entry.key: entry.text for entry in cite(["neuropixels", "barlow_twins"]).entries}
    assert entries["siegle2021survey"] == (
        "Joshua H. Siegle, Xiaoxuan Jia, Séverine Durand and others (2021). Survey of spiking in the mouse "
        "visual system reveals functional hierarchy. Nature 592(7852): 86\N{EN DASH}92. "
        "https://doi.org/10.1038/s41586-020-03171-x"
    )
    assert entries["zbontar2021barlow"].startswith(
        "Jure Zbontar, Li Jing, Ishan Misra, Yann LeCun & Stéphane Deny (2021). Barlow Twins: "
        "Self-supervised learning via redundancy reduction. International Conference on Machine"
    )
    assert entries["mvkit"].endswith(f"Version {mvkit.__version__}")


def test_citation_cff_says_the_same() -> None:
    document = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert document["version"] == mvkit.__version__
    entries = citations._references()
    preferred, paper = document["preferred-citation"], entries["nayebi2023mouse"].fields
    assert preferred["doi"] == paper["doi"] and preferred["title"] == paper["title"]
    assert str(preferred["year"]) == paper["year"]
    names = [f"{person['family-names']}, {person['given-names']}" for person in preferred["authors"]]
    assert " and ".join(names) == paper["author"]
    for reference in document["references"]:
        (entry,) = [one for one in entries.values() if one.fields.get("doi") == reference["doi"]]
        assert reference["title"] == entry.fields["title"]
