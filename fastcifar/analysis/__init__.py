"""Look at a trained network: its mistakes, Grad-CAM maps, receptive fields and layers."""
