"""GPU types, regions and base models that can be chosen."""
