"""A server with the APIs of Weights & Biases that runs use, for tests.

The real client of Weights & Biases accepts it, see
tests/extensions/trackers/process/test_wandb_client.py.
"""
