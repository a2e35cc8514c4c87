"""Use a trained network: evaluate, predict and export. Nothing here needs an optimizer."""
