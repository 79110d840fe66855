"""The process that keeps models in memory and answers chat requests."""
