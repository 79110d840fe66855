"""Account holders: sign-in, names, personal data, and use of keys."""
