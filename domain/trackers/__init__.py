"""Experiment trackers, to which EcoLink sends the metrics of a job."""
