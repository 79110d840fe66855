"""A server with the APIs of Weights & Biases that runs use, for tests.

The real client of Weights & Biases accepts it, see tests/services/trackers/test_wandb_client.py.
"""
