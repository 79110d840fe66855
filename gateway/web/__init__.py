"""Layout, assets and sign-in, which all pages share."""
