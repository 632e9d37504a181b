"""Networks with a read-out, and how wide it is; free of torch."""

from __future__ import annotations

from dataclasses import replace

from mvkit.errors import UsageError
from mvkit.models.blueprints import (
    Architecture,
    Blueprint,
    ConnectomeNet,
    PlainNet,
    Readout,
    ResidualNet,
    StreamNet,
)


def has_readout(blueprint: Blueprint) -> bool:
    """Whether a network ends in a read-out, so that it can be trained on labels directly."""
    match blueprint:
        case PlainNet():
            return any(isinstance(layer, Readout) for layer in blueprint.classifier)
        case StreamNet() | ResidualNet() | ConnectomeNet():
            return blueprint.classes is not None
        case _:
            return False


def with_classes(architecture: Architecture, n_classes: int | None) -> Architecture:
    """Return the row with a read-out of this width; unchanged if it has none or ``n_classes`` is None.

    Raises
    ------
    UsageError
        If ``n_classes`` is below 1.
    """
    blueprint = architecture.blueprint
    if n_classes is None or not has_readout(blueprint):
        return architecture
    if n_classes < 1:
        raise UsageError(f"'{architecture.name}' needs at least 1 class, got {n_classes}")
    match blueprint:
        case PlainNet():
            classifier = tuple(
                replace(layer, classes=n_classes) if isinstance(layer, Readout) else layer
                for layer in blueprint.classifier
            )
            return replace(architecture, blueprint=replace(blueprint, classifier=classifier))
        case StreamNet() | ResidualNet() | ConnectomeNet():
            return replace(architecture, blueprint=replace(blueprint, classes=n_classes))
        case _:
            return architecture
