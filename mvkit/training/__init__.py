"""Training: the one loop, optimisers, schedules, checkpoints; it knows nothing of neurons."""
