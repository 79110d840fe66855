"""Fine-tuning jobs: quotes, the wizard, lists, details, commands and live pages."""
