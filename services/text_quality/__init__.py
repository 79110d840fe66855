"""Texts of examples, near-duplicates among them, and findings about answers."""
