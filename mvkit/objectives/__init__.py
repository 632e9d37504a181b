"""Objectives: losses, heads, banks and queues; they know nothing of how images are loaded."""
