"""``mvkit cite``: what to cite, as BibTeX."""

from __future__ import annotations

from typing import Annotated

import typer

from mvkit.cli.console import JsonOption, complete_models, help_epilog, note, print_json, print_line

EPILOG = help_epilog(
    "mvkit cite > mvkit.bib",
    "mvkit cite alexnet_bn_ir torchvision:resnet18 neuropixels",
    "mvkit cite results/ runs/alexnet_ir",
    learn_more="docs/concepts/noise-correction.md: the measure of the paper",
)


def command(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Models, datasets, recipes, objectives, tools (ffcv, rsa, cka, brainscore); folders of "
            "saved scores or training runs.",
            show_default=False,
            autocompletion=complete_models,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print what to cite, as BibTeX: the paper and mvkit, and what belongs to each NAME.

    Without NAME: the paper, mvkit and the recordings.
    """
    from mvkit.pipeline.citations import cite

    citations = cite(names or ())
    if as_json:
        print_json(citations.to_json())
        return
    print_line(citations.to_bibtex())
    for line in citations.notes:
        note(line)
