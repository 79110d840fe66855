"""Fine-tuning jobs: lists, details, commands and live pages."""
