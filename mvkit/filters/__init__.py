"""Fixed image filters, in numpy only."""

from __future__ import annotations

from mvkit.filters.gabor import GaborScale, gabor_bank, gabor_energies, gabor_kernels

__all__ = ["GaborScale", "gabor_bank", "gabor_energies", "gabor_kernels"]
