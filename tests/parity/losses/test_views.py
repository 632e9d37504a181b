"""Objectives that compare two views of an image within a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mvkit.objectives import registry

Make = Callable[..., Any]


def _check_two_views(fitting: Any, batch_of: Make) -> None:
    views = {name: fitting.golden.leaf(name) for name in ("input1", "input2")}
    fitting.finish(fitting.objective.loss(fitting.encoder, batch_of(*views.values())), **views)
    fitting.check_state("after:")


def test_simclr(loss_golden: Make, fit: Make, toy: Make, batch_of: Make) -> None:
    golden = loss_golden("simclr")
    hidden, width = golden.widths(r"param:neck\.fc\d\.weight")
    encoder = toy(golden, "backbone:")
    chosen = registry.SimClr(hidden=hidden, width=width, temperature=golden.number("temperature"))
    fitting = fit(golden, encoder, chosen, width=encoder.fc.out_features)
    fitting.fill("param:", "backbone:")
    images = golden.leaf("input")
    fitting.finish(fitting.objective.loss(encoder, batch_of(*images.unbind(1))), input=images)
    fitting.check_state("after:")


def test_simsiam(loss_golden: Make, fit: Make, toy: Make, batch_of: Make) -> None:
    golden = loss_golden("simsiam")
    *hidden, width = golden.widths(r"param:projection_mlp\.layer\d\.0\.weight")
    (bottleneck,) = golden.widths(r"param:prediction_mlp\.layer1\.0\.weight")
    encoder = toy(golden, "backbone:")
    chosen = registry.SimSiam(hidden=hidden[0], width=width, prediction_hidden=bottleneck)
    fitting = fit(golden, encoder, chosen, width=encoder.fc.out_features)
    fitting.fill("param:", "backbone:")
    _check_two_views(fitting, batch_of)


def test_barlow_twins(loss_golden: Make, fit: Make, toy: Make, batch_of: Make) -> None:
    golden = loss_golden("barlow_twins")
    encoder = toy(golden, "param:backbone.")
    chosen = registry.BarlowTwins(
        widths=tuple(golden.widths(r"param:projector\.\d+\.weight")),
        off_diagonal_weight=golden.number("lambd"),
        divide_by=int(golden.number("batch_size")),
    )
    fitting = fit(golden, encoder, chosen, width=encoder.fc.out_features)
    fitting.fill("param:")
    _check_two_views(fitting, batch_of)


def test_vicreg(loss_golden: Make, fit: Make, toy: Make, batch_of: Make) -> None:
    golden = loss_golden("vicreg")
    encoder = toy(golden, "param:backbone.")
    chosen = registry.VicReg(
        widths=tuple(golden.widths(r"param:projector\.\d+\.weight")),
        invariance_weight=golden.weight("sim", 25.0),
        variance_weight=golden.weight("std", 25.0),
        covariance_weight=golden.weight("cov", 1.0),
        divide_by=int(golden.number("batch_size")),
    )
    fitting = fit(golden, encoder, chosen, width=encoder.fc.out_features)
    fitting.fill("param:")
    _check_two_views(fitting, batch_of)
