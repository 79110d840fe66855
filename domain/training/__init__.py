"""Hyperparameters, precision, checkpoints and token counts."""
