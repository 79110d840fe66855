"""Pages that show parts of EcoLink in detail."""
