"""Syntheses: generated datasets, from the quote to the finished dataset."""
