"""Layers with a faster path on some devices."""
