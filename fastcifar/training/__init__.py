"""Training: the loop, the step, the run's state, and their helpers."""
