"""Two releases of EcoLink side by side on one log."""
