"""Chat templates, tokens and answers."""
