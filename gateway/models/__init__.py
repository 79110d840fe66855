"""Base models, fine-tuned models, kept adapters and deployments."""
