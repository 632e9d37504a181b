"""What mvkit takes from AllenSDK: the only module that imports it, in AllenSDK's own environment."""

from __future__ import annotations

from allensdk.brain_observatory.ecephys.ecephys_project_api import (  # type: ignore[import-not-found]
    EcephysProjectWarehouseApi,
)
from allensdk.brain_observatory.ecephys.ecephys_project_api.rma_engine import (  # type: ignore[import-not-found]
    RmaEngine,
)
from allensdk.brain_observatory.ecephys.ecephys_project_cache import (  # type: ignore[import-not-found]
    EcephysProjectCache,
)
from allensdk.brain_observatory.ecephys.ecephys_session import (  # type: ignore[import-not-found]
    EcephysSession,
)
from allensdk.core import json_utilities  # type: ignore[import-not-found]
from allensdk.core.brain_observatory_cache import BrainObservatoryCache  # type: ignore[import-not-found]
from allensdk.core.brain_observatory_nwb_data_set import (  # type: ignore[import-not-found]
    BrainObservatoryNwbDataSet,
)

__all__ = [
    "MANIFEST_NAME",
    "BrainObservatoryCache",
    "BrainObservatoryNwbDataSet",
    "EcephysProjectCache",
    "EcephysProjectWarehouseApi",
    "EcephysSession",
    "RmaEngine",
    "json_utilities",
]

#: Name of AllenSDK's manifest, beside which its cache lies.
MANIFEST_NAME = "manifest.json"
