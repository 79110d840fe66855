"""Base models, GPU types and regions that users can choose for jobs."""
