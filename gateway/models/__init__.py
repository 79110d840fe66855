"""Base models, kept adapters and deployments."""
