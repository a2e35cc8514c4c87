"""Optimizers and the one-cycle schedule."""
