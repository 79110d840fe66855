"""Ids: derived from what a thing is, so that making it twice makes one thing."""

from __future__ import annotations

from uuid import UUID, uuid5

NAMESPACE = UUID("6f2a1f0c-4a55-5b0e-9d3c-7f4f3e6f8a10")

PLATFORM_ACCOUNT_ID = uuid5(NAMESPACE, "platform")
"""Stands in the envelope of events that belong to no customer, such as a pool's capacity."""

CATALOG_ID = uuid5(NAMESPACE, "catalog")
"""Id of the one catalog."""


def created_id(account_id: UUID, kind: str, command_key: str) -> UUID:
    """Id of what one command of an account creates."""
    return uuid5(account_id, f"{kind}:{command_key}")


def api_key_id(sha256: str) -> UUID:
    """Id of the API key with this hash."""
    return uuid5(NAMESPACE, f"api-key:{sha256}")


def gpu_pool_id(region: str, gpu_type: str) -> UUID:
    """Id of the pool of one GPU type in one region."""
    return uuid5(NAMESPACE, f"gpu-pool:{region}:{gpu_type}")


def base_model_id(name: str) -> UUID:
    """Id of a base model."""
    return uuid5(NAMESPACE, f"base-model:{name}")


def payment_id(provider: str, reference: str) -> UUID:
    """Id of a payment; the length keeps provider and reference apart."""
    return uuid5(NAMESPACE, f"payment:{len(provider)}:{provider}:{reference}")


def job_request_id(job_id: UUID) -> UUID:
    """Id of the request for a job."""
    return uuid5(job_id, "request")


def meter_id(job_id: UUID, segment: int) -> UUID:
    """Id of the meter of one segment of one job."""
    return uuid5(job_id, f"meter:{segment}")


def deployment_id(account_id: UUID, model: str) -> UUID:
    """Id of an account's deployment of a model."""
    return uuid5(account_id, f"deployment:{model}")
