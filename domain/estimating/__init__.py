"""Estimates of a job's memory, time and cost."""
