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
        create_neural_file,
        open_neural_file,
        write_neural_file,
    )
    from mvkit.neural.open import DATASETS, open_dataset
    from mvkit.neural.own.recordings import import_recordings
    from mvkit.neural.own.request import ImportedRecordings, ImportSettings
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

_NAMES = {
    "convert": "ConversionReport convert_pickle",
    "dataset": "AREA_ORDER NeuralDataset Recording",
    "neural_file": "NeuralFileContents OpenNeuralFile create_neural_file open_neural_file write_neural_file",
    "open": "DATASETS open_dataset",
    "own.recordings": "import_recordings",
    "own.request": "ImportSettings ImportedRecordings",
    "published": "PublishedRecording read_pickle_structure",
    "selection": "AreaSelection SelectionSettings SpecimenMap UnitFacts select_units selection_with "
    "specimen_map",
    "simulated": "SimulatedTruth simulated_truth write_simulated",
}
_MODULES = {name: f"mvkit.neural.{module}" for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "AREA_ORDER",
    "DATASETS",
    "AreaSelection",
    "ConversionReport",
    "ImportSettings",
    "ImportedRecordings",
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
    "create_neural_file",
    "import_recordings",
    "open_dataset",
    "open_neural_file",
    "read_pickle_structure",
    "select_units",
    "selection_with",
    "simulated_truth",
    "specimen_map",
    "write_neural_file",
    "write_simulated",
]

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
