"""The pages that people see in a browser."""

from gateway.web import errors
from gateway.web.site import install

__all__ = ["errors", "install"]
