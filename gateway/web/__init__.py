"""Layout, assets and sign-in that all pages share."""
