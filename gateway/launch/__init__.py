"""Estimates, the launch form and the wizard."""
