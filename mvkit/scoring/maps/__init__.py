"""Maps from features to responses."""
