"""Accounts as operators manage them: creation, suspension, and keys."""
