"""Chat completions of deployed models."""
