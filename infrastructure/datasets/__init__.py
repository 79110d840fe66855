"""Datasets: columns of their files, and work on them."""
