"""Results kept on disk under what they were computed from."""
