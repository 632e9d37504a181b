"""Models: the tables of networks, their builders, and released weights.

``names``, ``registry`` and ``preprocessing`` can be imported without torch; the names below are loaded when
first used (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mvkit import lazy_names

if TYPE_CHECKING:
    from mvkit.models.base import VisionModel
    from mvkit.models.exporting import export_weights
    from mvkit.models.loading import load_model
    from mvkit.models.preprocessing import Preprocessing
    from mvkit.models.registry import find_model, list_models
    from mvkit.models.viewing import ViewingConditions

_HOMES = {
    "Preprocessing": "mvkit.models.preprocessing",
    "ViewingConditions": "mvkit.models.viewing",
    "VisionModel": "mvkit.models.base",
    "export_weights": "mvkit.models.exporting",
    "find_model": "mvkit.models.registry",
    "list_models": "mvkit.models.registry",
    "load_model": "mvkit.models.loading",
}

__all__ = [
    "Preprocessing",
    "ViewingConditions",
    "VisionModel",
    "export_weights",
    "find_model",
    "list_models",
    "load_model",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
