"""Alert rules, and when an alert fires, repeats and resolves."""
