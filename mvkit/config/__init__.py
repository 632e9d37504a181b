"""Recipes: strict YAML files that say what to compute, never where or on what machine."""
