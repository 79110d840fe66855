"""Webhooks of account holders: endpoints, and the log of their deliveries."""
