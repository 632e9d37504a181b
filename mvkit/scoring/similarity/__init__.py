"""Similarities between a layer and a population."""
