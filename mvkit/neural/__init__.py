"""Neural data: the published pickles, the neural file, and the selection of units.

Names below are loaded when first used (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mvkit.neural.layout import NeuralFileContents, creating
    from mvkit.neural.layout_reading import OpenNeuralFile, reading

_HOMES = {
    "NeuralFileContents": "mvkit.neural.layout",
    "creating": "mvkit.neural.layout",
    "OpenNeuralFile": "mvkit.neural.layout_reading",
    "reading": "mvkit.neural.layout_reading",
}

__all__ = ["NeuralFileContents", "OpenNeuralFile", "creating", "reading"]


def __getattr__(name: str) -> object:
    """Import a public name from its home module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mvkit.neural' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(_HOMES)
