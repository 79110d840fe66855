"""Trainers: their messages, credentials, measurements and environment."""
