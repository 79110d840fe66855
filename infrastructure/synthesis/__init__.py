"""Synthesis of datasets."""
