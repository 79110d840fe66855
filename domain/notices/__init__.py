"""Notices: e-mails to account holders about their jobs, their balance and their models."""
