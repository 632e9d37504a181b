"""Intervals, tests and choices over units and animals."""
