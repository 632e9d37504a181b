"""Consistency between animals, the ceiling of what a model can reach."""
