"""Accounts, meters and payments."""
