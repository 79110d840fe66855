"""Bills of a period under other prices, as a command and as a page."""
