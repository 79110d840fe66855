"""Quality of datasets."""
