"""Exports of fine-tuned models."""
