"""Webhooks: their messages, signatures, retries and permitted targets."""
