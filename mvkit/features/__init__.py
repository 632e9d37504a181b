"""Features: what the layers of a network give for a set of images.

Names below are loaded when first used (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mvkit.lazy import lazy_names

if TYPE_CHECKING:
    from mvkit.features.extraction import (
        ExtractionReport,
        extract,
        extract_to_file,
        refuse_existing,
    )
    from mvkit.features.featureset import FeatureOrigin, FeatureSet, LayerInfo
    from mvkit.features.formats import read_features
    from mvkit.features.listing import list_layers
    from mvkit.features.modes import limited_threads
    from mvkit.features.patterns import match_layers
    from mvkit.features.stimuli import default_stimuli, open_stimuli
    from mvkit.features.tapping import tap, tappable_layers

_HOMES = {
    "ExtractionReport": "mvkit.features.extraction",
    "FeatureOrigin": "mvkit.features.featureset",
    "FeatureSet": "mvkit.features.featureset",
    "LayerInfo": "mvkit.features.featureset",
    "default_stimuli": "mvkit.features.stimuli",
    "extract": "mvkit.features.extraction",
    "extract_to_file": "mvkit.features.extraction",
    "limited_threads": "mvkit.features.modes",
    "list_layers": "mvkit.features.listing",
    "match_layers": "mvkit.features.patterns",
    "open_stimuli": "mvkit.features.stimuli",
    "read_features": "mvkit.features.formats",
    "refuse_existing": "mvkit.features.extraction",
    "tap": "mvkit.features.tapping",
    "tappable_layers": "mvkit.features.tapping",
}

__all__ = [
    "ExtractionReport",
    "FeatureOrigin",
    "FeatureSet",
    "LayerInfo",
    "default_stimuli",
    "extract",
    "extract_to_file",
    "limited_threads",
    "list_layers",
    "match_layers",
    "open_stimuli",
    "read_features",
    "refuse_existing",
    "tap",
    "tappable_layers",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
