"""Base models, GPU types and regions that jobs can choose."""
