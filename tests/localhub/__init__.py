"""A local Hugging Face hub for tests."""
