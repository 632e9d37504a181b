"""Neural data: the published pickles, the neural file, and the selection of units.

Names below are loaded when first used (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mvkit import lazy_names

if TYPE_CHECKING:
    from mvkit.neural.convert import ConversionReport, convert_pickle
    from mvkit.neural.dataset import AREA_ORDER, NeuralDataset, Recording
    from mvkit.neural.neural_file import (
        NeuralFileContents,
        OpenNeuralFile,
        creating,
        reading,
        write_neural_file,
    )
    from mvkit.neural.open import DATASETS, open_dataset
    from mvkit.neural.published import PublishedRecording, read_pickle_structure
    from mvkit.neural.selection import (
        AreaSelection,
        SelectionSettings,
        SpecimenMap,
        UnitFacts,
        select_units,
        selection_with,
        specimen_map,
    )
    from mvkit.neural.simulated import SimulatedTruth, simulated_truth, write_simulated

_HOMES = {
    "ConversionReport": "mvkit.neural.convert",
    "PublishedRecording": "mvkit.neural.published",
    "convert_pickle": "mvkit.neural.convert",
    "read_pickle_structure": "mvkit.neural.published",
    "AREA_ORDER": "mvkit.neural.dataset",
    "AreaSelection": "mvkit.neural.selection",
    "DATASETS": "mvkit.neural.open",
    "NeuralDataset": "mvkit.neural.dataset",
    "NeuralFileContents": "mvkit.neural.neural_file",
    "OpenNeuralFile": "mvkit.neural.neural_file",
    "Recording": "mvkit.neural.dataset",
    "SelectionSettings": "mvkit.neural.selection",
    "SimulatedTruth": "mvkit.neural.simulated",
    "SpecimenMap": "mvkit.neural.selection",
    "UnitFacts": "mvkit.neural.selection",
    "creating": "mvkit.neural.neural_file",
    "open_dataset": "mvkit.neural.open",
    "reading": "mvkit.neural.neural_file",
    "select_units": "mvkit.neural.selection",
    "selection_with": "mvkit.neural.selection",
    "simulated_truth": "mvkit.neural.simulated",
    "specimen_map": "mvkit.neural.selection",
    "write_neural_file": "mvkit.neural.neural_file",
    "write_simulated": "mvkit.neural.simulated",
}

__all__ = [
    "AREA_ORDER",
    "DATASETS",
    "AreaSelection",
    "ConversionReport",
    "NeuralDataset",
    "NeuralFileContents",
    "OpenNeuralFile",
    "PublishedRecording",
    "Recording",
    "SelectionSettings",
    "SimulatedTruth",
    "SpecimenMap",
    "UnitFacts",
    "convert_pickle",
    "creating",
    "open_dataset",
    "read_pickle_structure",
    "reading",
    "select_units",
    "selection_with",
    "simulated_truth",
    "specimen_map",
    "write_neural_file",
    "write_simulated",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
