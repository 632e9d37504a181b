"""Features: what the layers of a network give for a set of images.

Names below are loaded when first used (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mvkit import lazy_names

if TYPE_CHECKING:
    from mvkit.features.extraction import ExtractionReport, extract, extract_to_file
    from mvkit.features.feature_file import read_features
    from mvkit.features.feature_set import FeatureProvenance, FeatureSet, LayerInfo
    from mvkit.features.hooks import limit_threads
    from mvkit.features.layers import list_layers, tap, tappable_layers
    from mvkit.features.stimuli import default_stimuli, open_stimuli
    from mvkit.models.names import match_layers

_HOMES = {
    "ExtractionReport": "mvkit.features.extraction",
    "FeatureProvenance": "mvkit.features.feature_set",
    "FeatureSet": "mvkit.features.feature_set",
    "LayerInfo": "mvkit.features.feature_set",
    "default_stimuli": "mvkit.features.stimuli",
    "extract": "mvkit.features.extraction",
    "extract_to_file": "mvkit.features.extraction",
    "limit_threads": "mvkit.features.hooks",
    "list_layers": "mvkit.features.layers",
    "match_layers": "mvkit.models.names",
    "open_stimuli": "mvkit.features.stimuli",
    "read_features": "mvkit.features.feature_file",
    "tap": "mvkit.features.layers",
    "tappable_layers": "mvkit.features.layers",
}

__all__ = [
    "ExtractionReport",
    "FeatureProvenance",
    "FeatureSet",
    "LayerInfo",
    "default_stimuli",
    "extract",
    "extract_to_file",
    "limit_threads",
    "list_layers",
    "match_layers",
    "open_stimuli",
    "read_features",
    "tap",
    "tappable_layers",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
