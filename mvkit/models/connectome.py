"""Wiring of MouseNet: areas and layers, their widths, and the connections between them.

Figures of Shi, Tripp, Shea-Brown, Mihalas & Buice (bioRxiv
2020.10.23.353151; PLOS Comput. Biol. 2022, 18:e1010427), derived there from
the Allen mouse connectome, with the values that Nayebi, Kong et al. (2023)
trained with, to six decimals. A connection is drawn with probability
``peak * exp(-r**2 / (2 * sigma_px**2))`` at distance ``r`` from the kernel's
centre; its kernel reaches ``int(sigma_px)`` to each side. Free of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

INPUT = "input"
RELAY = "LGNv"
INPUT_CHANNELS = 3

#: Channels of every area.
WIDTHS: Mapping[str, int] = MappingProxyType(
    {
        "LGNv": 5,
        "VISp4": 22,
        "VISp2/3": 45,
        "VISp5": 40,
        "VISal4": 22,
        "VISal2/3": 52,
        "VISal5": 53,
        "VISpl4": 8,
        "VISpl2/3": 18,
        "VISpl5": 18,
        "VISli4": 4,
        "VISli2/3": 10,
        "VISli5": 8,
        "VISrl4": 7,
        "VISrl2/3": 17,
        "VISrl5": 14,
        "VISl4": 9,
        "VISl2/3": 22,
        "VISl5": 18,
        "VISpor4": 14,
        "VISpor2/3": 34,
        "VISpor5": 28,
    }
)

#: Areas in an order in which every source precedes its targets.
AREAS = tuple(WIDTHS)

#: Areas that a read-out may use.
OUTPUT_AREAS = ("VISp5", "VISl5", "VISrl5", "VISli5", "VISpl5", "VISal5", "VISpor5")


@dataclass(frozen=True)
class Connection:
    """A masked convolution from one area to another.

    Attributes
    ----------
    source, target
        Area names.
    peak
        Probability of a connection at the kernel's centre (above 1: certain).
    sigma_px
        Standard deviation of the Gaussian fall-off, in source pixels.
    """

    source: str
    target: str
    peak: float
    sigma_px: float

    @property
    def name(self) -> str:
        """Name of the convolution in state dicts."""
        return f"{self.source}_{self.target}"

    @property
    def reach_px(self) -> int:
        """Kernel pixels to each side of the centre."""
        return int(self.sigma_px)

    @property
    def kernel_px(self) -> int:
        """Side of the kernel."""
        return 2 * self.reach_px + 1

    @property
    def stride(self) -> int:
        """Two from VISp to another area (64 px to 32 px maps), else one."""
        return 2 if _is_visp(self.source) and not _is_visp(self.target) and self.source != RELAY else 1

    @property
    def padding_px(self) -> tuple[int, int, int, int]:
        """Zeros added left, right, top and bottom; with stride 2 one less at the left and the top."""
        before = self.reach_px - (self.stride - 1)
        return (before, self.reach_px, before, self.reach_px)


def _is_visp(area: str) -> bool:
    return area in ("VISp4", "VISp2/3", "VISp5")


#: The 49 connections, in the order of the state dict.
CONNECTIONS = tuple(
    Connection(source, target, peak, sigma_px)
    for source, target, peak, sigma_px in (
        ("input", "LGNv", 1.0, 4.0),
        ("LGNv", "VISp4", 1.0, 1.0),
        ("VISp4", "VISp2/3", 0.161825, 4.373461),
        ("VISp4", "VISl4", 0.034912, 9.829922),
        ("VISp4", "VISrl4", 0.037577, 9.626474),
        ("VISp4", "VISli4", 0.037450, 9.312343),
        ("VISp4", "VISpl4", 0.037738, 9.122277),
        ("VISp4", "VISal4", 0.045823, 8.698111),
        ("VISp4", "VISpor4", 0.015624, 8.689174),
        ("VISp2/3", "VISp5", 0.167338, 1.875687),
        ("VISp2/3", "VISl4", 0.035737, 9.648759),
        ("VISp2/3", "VISrl4", 0.029711, 10.051601),
        ("VISp2/3", "VISli4", 0.042098, 8.982344),
        ("VISp2/3", "VISpl4", 0.044107, 8.417906),
        ("VISp2/3", "VISal4", 0.058250, 7.881177),
        ("VISp2/3", "VISpor4", 0.011840, 9.104469),
        ("VISl4", "VISl2/3", 0.161825, 4.908690),
        ("VISl4", "VISpor4", 0.022289, 7.210774),
        ("VISrl4", "VISrl2/3", 0.161825, 5.757328),
        ("VISrl4", "VISpor4", 0.103294, 4.017320),
        ("VISli4", "VISli2/3", 0.161825, 8.166831),
        ("VISli4", "VISpor4", 0.018471, 9.092790),
        ("VISpl4", "VISpl2/3", 0.161825, 8.583622),
        ("VISpl4", "VISpor4", 0.075101, 1.366755),
        ("VISal4", "VISal2/3", 0.161825, 6.438807),
        ("VISal4", "VISpor4", 0.226739, 1.755297),
        ("VISpor4", "VISpor2/3", 0.161825, 6.233914),
        ("VISp5", "VISl4", 0.033885, 9.751817),
        ("VISp5", "VISrl4", 0.033449, 9.747833),
        ("VISp5", "VISli4", 0.034392, 9.838764),
        ("VISp5", "VISpl4", 0.042830, 8.709978),
        ("VISp5", "VISal4", 0.051527, 7.482450),
        ("VISp5", "VISpor4", 0.012734, 9.336677),
        ("VISl2/3", "VISl5", 0.167338, 2.144074),
        ("VISl2/3", "VISpor4", 0.015374, 7.128502),
        ("VISrl2/3", "VISrl5", 0.167338, 2.439083),
        ("VISrl2/3", "VISpor4", 0.081975, 4.059625),
        ("VISli2/3", "VISli5", 0.167338, 3.180175),
        ("VISli2/3", "VISpor4", 0.019500, 8.500520),
        ("VISpl2/3", "VISpl5", 0.167338, 2.546929),
        ("VISpl2/3", "VISpor4", 0.050238, 2.393610),
        ("VISal2/3", "VISal5", 0.167338, 2.756879),
        ("VISal2/3", "VISpor4", 1.258190, 0.601440),
        ("VISpor2/3", "VISpor5", 0.167338, 1.724692),
        ("VISl5", "VISpor4", 0.020883, 7.549487),
        ("VISrl5", "VISpor4", 0.083282, 4.306474),
        ("VISli5", "VISpor4", 0.038071, 7.820254),
        ("VISpl5", "VISpor4", 0.083205, 2.137409),
        ("VISal5", "VISpor4", 1.192371, 0.676837),
    )
)
