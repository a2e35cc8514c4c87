"""Training: the loop, the step, the run's state, and what only training needs."""
