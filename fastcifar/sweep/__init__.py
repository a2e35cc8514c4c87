"""Sweeps: one training per combination of recipe, settings and seed, run by Ray Tune."""
