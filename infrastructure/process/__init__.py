"""Processes: limits, metrics, logs, time and the machine."""
