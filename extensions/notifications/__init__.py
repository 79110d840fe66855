"""Notifications: events that account holders receive by webhook and by e-mail."""

from infrastructure.extensions import Extension

EXTENSION = Extension(
    package=__name__, summary="Events that account holders receive by webhook and by e-mail."
)
