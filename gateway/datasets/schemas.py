"""Schemas of datasets and their validation."""

from gateway.datasets.api import DatasetAnswer, Excerpt, ValidationReport

__all__ = ["DatasetAnswer", "Excerpt", "ValidationReport"]
