"""The request of a job, its integrations and its quote."""
