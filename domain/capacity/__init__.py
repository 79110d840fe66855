"""GPU pools, availability and queue estimates."""
