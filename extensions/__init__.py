"""Optional features, one folder each. See docs/extending.md."""
