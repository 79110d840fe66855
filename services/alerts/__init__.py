"""The alerts process: it compares events and periodic checks with rules, and notifies operators."""
