"""What to take from every calcium imaging experiment: stimulus and areas; there are no time bins."""

from __future__ import annotations

from dataclasses import dataclass, fields

from mvkit.acquire.allen.request import SessionRequest
from mvkit.errors import UsageError
from mvkit.neural.recording import area_sort_key

#: Per cent of dF/F, averaged over the presentation and as long again.
MEASURE = "mean_sweep_response"
_ABOUT_IMAGING = ("stimulus", "areas")


@dataclass(frozen=True)
class ImagingRequest(SessionRequest):
    """What to take from an imaging experiment.

    Only ``stimulus`` and ``areas`` of :class:`SessionRequest` have a meaning here.

    Raises
    ------
    UsageError
        As there, and if anything about spikes is asked.
    """

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        super().__post_init__()
        asked = [
            field.name
            for field in fields(self)
            if field.name not in _ABOUT_IMAGING and getattr(self, field.name) != field.default
        ]
        if asked:
            raise UsageError(f"calcium: {', '.join(asked)}: only for spikes (neuropixels)")

    @classmethod
    def of(cls, request: SessionRequest) -> ImagingRequest:
        """Return the request as one about imaging.

        Raises
        ------
        UsageError
            If it asks for something about spikes.
        """
        return cls(**{field.name: getattr(request, field.name) for field in fields(request)})

    @property
    def holds_counts(self) -> bool:
        """Responses are no counts."""
        return False

    @property
    def method(self) -> dict[str, object]:
        """How responses are measured, for the provenance."""
        return {
            "averaging": "mean of 100 * (F / F0 - 1) from onset over twice the length of a presentation; F "
            "corrected for neuropil, F0 its mean over the four lengths before onset, as AllenSDK's "
            "NaturalScenes.mean_sweep_response",
            "scale": "per cent",
        }

    def to_json(self) -> dict[str, object]:
        """Return plain data, equal for requests that take the same; :meth:`from_json` reads it."""
        return {
            "stimulus": self.stimulus,
            "areas": sorted(self.areas, key=area_sort_key),
            "measure": MEASURE,
        }

    @classmethod
    def from_json(cls, document: dict[str, object]) -> ImagingRequest:
        """Read what :meth:`to_json` wrote.

        Raises
        ------
        UsageError
            If it is nothing of the kind.
        """
        areas = document.get("areas")
        if document.get("measure") != MEASURE or not isinstance(areas, list):
            raise UsageError("not a request for an imaging experiment")
        return cls(stimulus=str(document.get("stimulus")), areas=tuple(str(area) for area in areas))
