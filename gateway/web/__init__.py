"""The pages that people see in a browser."""

from gateway.web import errors
from gateway.web.live_jobs import LiveJobs
from gateway.web.site import install

__all__ = ["LiveJobs", "errors", "install"]
