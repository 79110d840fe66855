"""Stand-ins for the public images, for a machine that cannot reach a registry."""
