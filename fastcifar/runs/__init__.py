"""The files of a run on disk: its folder, its checkpoints and its record."""
