"""A fine-tuning job: its events, its rules and its states."""
