"""Fine-tuning jobs: events, rules and states."""
