"""A complete extension, in a folder that a test adds to the path."""
