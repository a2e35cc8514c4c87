"""Use a trained network: evaluate, predict and export. Nothing here knows an optimizer."""
