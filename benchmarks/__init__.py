"""Measurements of speed and accuracy, each with a JSON result file."""
