"""Rules of webhooks and of e-mail notices."""
