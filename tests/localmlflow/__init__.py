"""MLflow tracking servers for tests: a real one in an environment of its own, and one in memory."""
