"""Deterministic IDs. Creating the same object twice results in the same ID."""

from __future__ import annotations

from uuid import UUID, uuid5

NAMESPACE = UUID("6f2a1f0c-4a55-5b0e-9d3c-7f4f3e6f8a10")

PLATFORM_ACCOUNT_ID = uuid5(NAMESPACE, "platform")
"""Account of events that belong to no customer, such as a change of a pool's capacity."""

CATALOG_ID = uuid5(NAMESPACE, "catalog")
"""ID of the platform's catalog."""


def created_id(account_id: UUID, kind: str, command_key: str) -> UUID:
    """Return the ID of the object that a command of an account creates."""
    return uuid5(account_id, f"{kind}:{command_key}")


def api_key_id(sha256: str) -> UUID:
    """Return the ID of the API key with this hash."""
    return uuid5(NAMESPACE, f"api-key:{sha256}")


def gpu_pool_id(region: str, gpu_type: str) -> UUID:
    """Return the ID of the pool of one GPU type in one region."""
    return uuid5(NAMESPACE, f"gpu-pool:{region}:{gpu_type}")


def base_model_id(name: str) -> UUID:
    """Return the ID of the base model with this name."""
    return uuid5(NAMESPACE, f"base-model:{name}")


def payment_id(provider: str, reference: str) -> UUID:
    """Return the ID of a payment. A length prefix separates the provider from the reference."""
    return uuid5(NAMESPACE, f"payment:{len(provider)}:{provider}:{reference}")


def auto_top_up_id(account_id: UUID) -> UUID:
    """Return the ID of the saved card and the automatic top-ups of an account."""
    return uuid5(account_id, "auto-top-up")


def job_request_id(job_id: UUID) -> UUID:
    """Return the ID of the request for a job."""
    return uuid5(job_id, "request")


def meter_id(job_id: UUID, segment: int) -> UUID:
    """Return the ID of the meter of one segment of a job."""
    return uuid5(job_id, f"meter:{segment}")


def token_meter_id(synthesis_id: UUID) -> UUID:
    """Return the ID of the meter of the tokens of a synthesis."""
    return uuid5(synthesis_id, "tokens")


def deployment_id(account_id: UUID, model: str) -> UUID:
    """Return the ID of the deployment of an account's model."""
    return uuid5(account_id, f"deployment:{model}")
