"""Files of base models."""
