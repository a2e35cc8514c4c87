"""The learning-rate range test and the learning rates that it suggests."""
