"""What to cite: BibTeX of the paper, recordings, networks, objectives and tools, by name or saved scores."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from mvkit import __version__
from mvkit.errors import DataError, UsageError, unknown_name
from mvkit.models.names import LAST, ExternalName, parse_external
from mvkit.models.registry import (
    RELEASED,
    SHORT_NAMES,
    Baseline,
    ConnectomeNet,
    PlainNet,
    ResidualNet,
    find_model,
    is_model,
    list_models,
)
from mvkit.paths import expand

_PAPER, _MVKIT = "nayebi2023mouse", "mvkit"
_ALWAYS = (_PAPER, _MVKIT)

#: Published data set -> its entries.
_DATASETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "neuropixels": ("siegle2021survey", "allen2019neuropixels"),
        "calcium": ("devries2020large", "allen2016calcium"),
        "simulated": (),
    }
)

#: Objective, as recipes name it -> its entries.
_OBJECTIVES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "instance_recognition": ("wu2018unsupervised",),
        "simclr": ("chen2020simple",),
        "mocov2": ("chen2020improved",),
        "simsiam": ("chen2021exploring",),
        "barlow_twins": ("zbontar2021barlow",),
        "vicreg": ("bardes2022vicreg",),
        "rotnet": ("gidaris2018unsupervised",),
        "relative_location": ("doersch2015unsupervised",),
        "depth_prediction": ("zhang2017physically",),
        "autoencoder": (),
        "cross_entropy": (),
        "linear_readout": (),
        "neural_readout": ("klindt2017neural",),
    }
)

#: Prepared images, as training recipes name them -> entries of the images and of the files' format.
_IMAGES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "imagenet_64": ("russakovsky2015imagenet", "leclerc2023ffcv"),
        "imagenet_full": ("russakovsky2015imagenet", "leclerc2023ffcv"),
        "cifar10": ("krizhevsky2009learning", "leclerc2023ffcv"),
        "pbrnet": ("zhang2017physically", "leclerc2023ffcv"),
    }
)

#: Maps and tools that have a paper of their own.
_TOOLS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "rsa": ("kriegeskorte2008representational",),
        "cka": ("kornblith2019similarity",),
        "ffcv": ("leclerc2023ffcv",),
        "torchvision": ("torchvision2016",),
        "timm": ("wightman2019timm",),
        "brainscore": ("schrimpf2020integrative",),
    }
)

#: Beginning of a network's name, here or in torchvision and timm -> its entry.
_FAMILIES: Mapping[str, str] = MappingProxyType(
    {"alexnet": "krizhevsky2012imagenet", "vgg": "simonyan2015very", "resnet": "he2016deep"}
)

#: Objective of a released network, in words -> as recipes name it.
_RELEASED_OBJECTIVES = {"instance recognition": "instance_recognition", "SimCLR": "simclr"}

_ENTRY = re.compile(r"^% (?P<purpose>[^\n]+)\n(?P<bibtex>@(?P<type>\w+)\{(?P<key>\w+),\n.*?^\})", re.M | re.S)
_FIELD = re.compile(r"^  (\w+) = \{(.*)\},$", re.M)
_RANDOM = re.compile(r" \(random, seed \d+\)$|@random$")

_SUMMARY, _SCORES, _RECIPE = "summary.json", "scores.csv", "recipe.yaml"
#: Folder of a ceiling beside scores.
_CEILING = "ceiling"


@dataclass(frozen=True)
class Citation:
    """An entry of a bibliography.

    Attributes
    ----------
    key
        Its key in BibTeX.
    kind
        BibTeX's type of entry: "article", "inproceedings", "misc", "software" or "techreport".
    purpose
        What it is cited for, in a few words.
    bibtex
        The whole entry.
    """

    key: str
    kind: str
    purpose: str
    bibtex: str

    @property
    def fields(self) -> dict[str, str]:
        """Fields of the entry as they stand in BibTeX, by name."""
        return dict(_FIELD.findall(self.bibtex))

    @property
    def text(self) -> str:
        """The reference as a sentence without markup: authors (year). title. where. address."""
        fields = {name: _plain_text(value) for name, value in self.fields.items()}
        names = [" ".join(reversed(name.split(", ", 1))) for name in fields["author"].split(" and ")]
        *first, last = names
        authors = f"{', '.join(first)} {'and' if last == 'others' else '&'} {last}" if first else last
        where = fields.get("journal") or fields.get("booktitle") or fields.get("institution") or ""
        if "volume" in fields and where:
            issue = f"({fields['number']})" if "number" in fields else ""
            where += f" {fields['volume']}{issue}"
        if "pages" in fields and where:
            where += f": {fields['pages']}"
        if "version" in fields:
            where = f"Version {fields['version']}"
        address = f"https://doi.org/{fields['doi']}" if "doi" in fields else fields.get("url", "")
        parts = (f"{authors} ({fields['year']})", fields["title"], where, address)
        return ". ".join(part for part in parts if part)

    def to_json(self) -> dict[str, str]:
        """Return the entry as plain data."""
        return {
            "key": self.key,
            "type": self.kind,
            "purpose": self.purpose,
            "text": self.text,
            "bibtex": self.bibtex,
        }


@dataclass(frozen=True)
class Citations:
    """What to cite, and what of it mvkit knows no reference for.

    Attributes
    ----------
    entries
        Every entry once: the paper, mvkit, then in the order of the names.
    notes
        A line for each name that needs a reference of the user's own.
    """

    entries: tuple[Citation, ...]
    notes: tuple[str, ...] = ()

    def to_bibtex(self) -> str:
        """Return a bibliography file: each entry below a comment that says what it is cited for."""
        return "\n\n".join(f"% {entry.purpose}\n{entry.bibtex}" for entry in self.entries)

    def to_json(self) -> dict[str, object]:
        """Return everything as plain data."""
        return {"citations": [entry.to_json() for entry in self.entries], "notes": list(self.notes)}


def cite(names: Sequence[str | Path] = ()) -> Citations:
    """Collect what to cite for models, data sets, recipes, objectives, tools, saved scores or training runs.

    Parameters
    ----------
    names
        Each a model's name (also ``torchvision:NAME``, ``timm:NAME``), a data set's (``neuropixels``,
        ``calcium``), a recipe's, an objective's (``simclr``) or a tool's (``ffcv``, ``rsa``, ...); or a
        folder: scores that ``mvkit score --out`` wrote, or a training run. None: the paper, mvkit, and the
        published recordings.

    Returns
    -------
    Citations
        The paper and mvkit are always among them.

    Raises
    ------
    UsageError
        A name is none of these.
    DataError
        A folder's files cannot be read.
    """
    keys: dict[str, None] = dict.fromkeys(_ALWAYS)
    notes: dict[str, None] = {}
    words: Iterable[str | Path] = names or tuple(_DATASETS)
    for word in words:
        for found in _resolve(str(word)):
            if isinstance(found, _Unknown):
                notes[found.note] = None
            else:
                keys[found] = None
    known = _references()
    return Citations(tuple(known[key] for key in keys), tuple(notes))


@dataclass(frozen=True)
class _Unknown:
    """Something that needs a reference which mvkit does not know."""

    note: str


def _resolve(word: str) -> Iterator[str | _Unknown]:
    """Yield the keys of what a name or a folder stands for."""
    named = {**_DATASETS, **_OBJECTIVES, **_IMAGES, **_TOOLS}
    if word in named:
        yield from named[word]
    elif is_model(word):
        yield from _of_model(word)
    elif (external := parse_external(word)) is not None:
        yield from _of_external(external)
    elif expand(word).is_dir():
        yield from _of_folder(expand(word))
    elif (recipe := _recipe_path(word)) is not None:
        yield from _of_recipe(str(recipe))
    elif "/" in word or Path(word).exists():
        raise UsageError(
            f"{word}: not a folder of saved scores or of a training run, nor a recipe\n"
            "give such a folder (mvkit score --out DIR writes one), or a name: of a model, data set, recipe"
        )
    else:
        names = [*RELEASED, *named, *SHORT_NAMES, *list_models()]
        raise unknown_name("name", word, dict.fromkeys(names), command="mvkit list models|datasets|recipes")


def _of_model(name: str) -> Iterator[str]:
    row = find_model(name)
    net = row.architecture.blueprint
    if isinstance(net, Baseline):
        return
    yield _PAPER
    if isinstance(net, ConnectomeNet):
        yield "shi2022mousenet"
    elif isinstance(net, PlainNet | ResidualNet):
        yield from _of_family(row.architecture.name)
    if row.released is not None and row.released.name == name:
        yield from _OBJECTIVES[_RELEASED_OBJECTIVES[row.released.objective]]
        yield "russakovsky2015imagenet"


def _of_family(name: str) -> Iterator[str]:
    yield from (key for family, key in _FAMILIES.items() if name.lower().startswith(family))


def _of_external(name: ExternalName) -> Iterator[str | _Unknown]:
    if name.kind not in _TOOLS:
        yield _Unknown(f"{name.label}: code of your own; add the paper of the network")
        return
    yield from _TOOLS[name.kind]
    family = tuple(_of_family(name.item))
    yield from family
    if not family:
        yield _Unknown(f"{name.label}: add the paper of the network, which {name.kind}'s documentation names")


def _recipe_path(word: str) -> Path | None:
    from mvkit.recipes import packaged_recipes

    packaged = packaged_recipes()
    for name in (word, f"score/{word}", f"prep/{word}"):
        if name in packaged:
            return packaged[name]
    path = Path(word)
    return path if path.suffix in (".yaml", ".yml") and path.is_file() else None


def _of_recipe(source: str) -> Iterator[str | _Unknown]:
    """Yield what a recipe names: of training architecture, objective and images, of scoring the map."""
    from mvkit.recipes import read_document

    document = read_document(Path(source))
    model, objective, data = (_mapping(document.get(key)) for key in ("model", "objective", "data"))
    if (architecture := str(model.get("architecture", ""))) and is_model(architecture):
        yield from _of_model(architecture)
    yield from _OBJECTIVES.get(str(objective.get("name", "")), ())
    yield from _IMAGES.get(str(data.get("images", "")), ())
    yield from _DATASETS.get(str(_mapping(data.get("neural")).get("dataset", "")), ())
    yield from _TOOLS.get(str(document.get("mapping", "")), ())


def _of_folder(folder: Path) -> Iterator[str | _Unknown]:
    tables = [folder / _SCORES] if (folder / _SCORES).is_file() else sorted(folder.glob(f"*/{_SCORES}"))
    tables = [table for table in tables if table.parent.name != _CEILING]
    if tables:
        for table in tables:
            yield from _of_scores(table)
    elif (folder / _RECIPE).is_file():
        yield from _of_recipe(str(folder / _RECIPE))
    else:
        raise UsageError(
            f"{folder}: neither saved scores ({_SCORES}) nor a training run ({_RECIPE}) in this folder\n"
            "give a folder that mvkit score --out DIR or mvkit train wrote"
        )


def _of_scores(table: Path) -> Iterator[str | _Unknown]:
    """Yield what a table of scores and the summary beside it name: models, recordings, the map."""
    for model, weights in _distinct(table, "model", "weights"):
        name = _RANDOM.sub("", model)
        if not name:
            continue
        # With weights drawn at random a released network is only its architecture.
        is_random = weights.startswith("random")
        yield from _of_scored_model(
            find_model(name).architecture.name if is_random and is_model(name) else name
        )
    for (dataset,) in _distinct(table, "dataset"):
        if dataset in _DATASETS:
            yield from _DATASETS[dataset]
        elif dataset:
            yield _Unknown(f"{dataset}: recordings of your own; add where they come from")
    summary = table.with_name(_SUMMARY)
    if summary.is_file():
        try:
            document = json.loads(summary.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{summary}: not readable as JSON ({error}); score again with --out") from None
        for name in ("settings", "protocol"):
            yield from _TOOLS.get(str(_mapping(_mapping(document).get(name)).get("mapping", "")), ())


def _of_scored_model(name: str) -> Iterator[str | _Unknown]:
    if is_model(name):
        yield from _of_model(name)
        return
    path = expand(name)
    run = path if path.is_dir() else path.parent
    if (run / LAST).is_file() and (run / _RECIPE).is_file():
        yield from _of_recipe(str(run / _RECIPE))
        return
    try:
        external = parse_external(name)
    except UsageError:
        external = None
    if external is not None:
        yield from _of_external(external)
    else:
        yield _Unknown(f"{name}: no such model or training run here; add what it is, e.g. mvkit cite RECIPE")


def _distinct(table: Path, *columns: str) -> list[tuple[str, ...]]:
    """Return the distinct rows of some columns of a CSV file, in order."""
    try:
        with table.open(encoding="utf-8", newline="") as file:
            return list(
                dict.fromkeys(tuple(row.get(name) or "" for name in columns) for row in csv.DictReader(file))
            )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: not readable as a table of scores ({error})") from None


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


@cache
def _references() -> Mapping[str, Citation]:
    """Read the bibliography that comes with mvkit: key -> entry."""
    text = resources.files("mvkit.pipeline").joinpath("references.bib").read_text(encoding="utf-8")
    text = text.replace("{VERSION}", f"{{{__version__}}}")
    return MappingProxyType(
        {
            found["key"]: Citation(found["key"], found["type"], found["purpose"], found["bibtex"])
            for found in _ENTRY.finditer(text)
        }
    )


_ACCENTS = {r"{\'e}": "é", r"{\"u}": "ü"}


def _plain_text(value: str) -> str:
    """Return a BibTeX value without its markup."""
    for markup, letter in _ACCENTS.items():
        value = value.replace(markup, letter)
    return value.replace("{", "").replace("}", "").replace("--", "\N{EN DASH}")
