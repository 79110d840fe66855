"""Quality of the examples of a dataset: findings, statistics, filters and comparisons."""
