"""Evaluation during training: what a run measures of itself, by recipe."""
