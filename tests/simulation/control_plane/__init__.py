"""A simulated control plane: the real services on simulated time, storage, bus and GPUs."""
