"""The module that connects to slurmrestd. Its URL is a setting of the operator."""

IMPORTERS = {"httpx": {"extensions/slurm/rest.py"}}
