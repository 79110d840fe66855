"""The catalog: available GPU types, regions and base models."""
