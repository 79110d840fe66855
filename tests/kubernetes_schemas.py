"""Validation of resources by the published schemas of Kubernetes, each of which is read once."""

from __future__ import annotations

from functools import cache, partial

from kubernetes_validate import utils

utils.schema_contents = cache(utils.schema_contents)
validate = partial(utils.validate, strict=True)
