"""The wizard: the form of a job, with its quote."""
