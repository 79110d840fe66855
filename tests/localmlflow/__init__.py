"""A real MLflow tracking server for tests, in an environment of its own."""
