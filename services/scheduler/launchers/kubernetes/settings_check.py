"""Checks of the settings that the Kubernetes launcher needs."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from urllib.parse import urlparse

from infrastructure.settings import Settings

NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""Name of a namespace, by RFC 1123."""


class UnusableSettings(ValueError):
    """Settings with which no pod could run."""


def require_usable(settings: Settings) -> None:
    """Raise UnusableSettings with all problems of the settings."""
    found = list(problems(settings))
    if found:
        raise UnusableSettings(" ".join(found))


def problems(settings: Settings) -> Iterator[str]:
    """Return each problem with its setting, value and fix."""
    if not settings.kubernetes_image:
        yield (
            "ECOLINK_KUBERNETES_IMAGE is not set. Set it to the image of the trainers, such as "
            "registry.example.org/ecolink-trainer:0.1.0."
        )
    if not NAME.fullmatch(settings.kubernetes_namespace):
        yield (
            f"ECOLINK_KUBERNETES_NAMESPACE is {settings.kubernetes_namespace!r}. Use lowercase "
            "letters, digits and hyphens."
        )
    if settings.artifacts.startswith("file:"):
        yield (
            f"ECOLINK_ARTIFACTS_URL is {settings.artifacts!r}, which pods on other machines cannot "
            "read. Set it to an object store, such as s3://ecolink."
        )
    url = settings.trainer_nats_url or settings.nats_url
    if url is None:
        yield "ECOLINK_TRAINER_NATS_URL is not set. Set it to the URL of NATS for pods."
    elif _is_loopback(urlparse(url).hostname):
        yield (
            f"Trainers would connect to NATS at {urlparse(url).hostname}, which is their own pod. "
            "Set ECOLINK_TRAINER_NATS_URL to the URL of NATS for pods, such as "
            "nats://nats.ecolink.svc:4222."
        )


def _is_loopback(host: str | None) -> bool:
    try:
        return host is None or host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a host name
        return False
