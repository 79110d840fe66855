"""A synthesis whose examples have a word, for the test of keys that may not read datasets."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from tests.extensions.synthesis.process.bench import Bench, work
from tests.scripted_model import scripted

PLACES = {"GET /api/syntheses/*/examples"}


def add(canary: Any, word: str) -> None:
    """Generate examples, and edit one of them."""
    platform = canary.platform
    bench = Bench(platform.log, canary.pool, platform.artifacts, platform.settings)
    with scripted() as model:
        endpoint = {"name": "provider", "url": f"{model.url}/v1", "key": "sk-secret"}
        made = canary.send("POST", "/api/synthesis-endpoints", json=endpoint)
        form = {"name": "chats", "instructions": word, "topics": [word], "examples": 4}
        form |= {"answer_tokens": 200, "endpoint": made["id"], "endpoint_model": "gpt-test"}
        id = canary.send("POST", "/api/syntheses", json=form)["id"]
        with bench.billing():
            asyncio.run(work(bench, UUID(id)))
    platform.project()
    messages = [{"role": "user", "content": word}, {"role": "assistant", "content": word}]
    canary.send("PATCH", f"/api/syntheses/{id}/examples/1", json={"messages": messages})
    canary.ids |= {"synthesis_id": {id}, "endpoint_id": {made["id"]}, "number": {"1"}}
