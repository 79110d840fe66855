"""Layout, assets and sign-in, shared by all pages."""
