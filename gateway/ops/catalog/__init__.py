"""The catalog: its usage, and forms that change it after a preview."""
