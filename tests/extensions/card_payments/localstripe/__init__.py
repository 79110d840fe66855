"""Stripe for tests: localstripe as a process on loopback, with the endpoints that it lacks."""
