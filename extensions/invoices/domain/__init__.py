"""Calculation of bills from stored events alone."""
