"""Launchers, which run the pods of segments."""
