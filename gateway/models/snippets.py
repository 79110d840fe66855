"""Code snippets that call a model through /v1."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

from fastapi import Request

from gateway.http.origin import base_url

KEY_VARIABLE = "ECOLINK_API_KEY"

PYTHON = """\
import os

from openai import OpenAI

client = OpenAI(
    base_url={base_url},
    api_key=os.environ["{key}"],
)
answer = client.chat.completions.create(
    model={model},
    messages=[{{"role": "user", "content": "Hello!"}}],
    max_tokens=200,
)
print(answer.choices[0].message.content)
"""

CURL = """\
curl {url} \\
  -H "Authorization: Bearer ${key}" \\
  -H "Content-Type: application/json" \\
  -d {body}
"""


@dataclass(frozen=True)
class Snippets:
    """Setup commands, a Python program, and a curl command."""

    before: str
    python: str
    curl: str


def snippets_for(request: Request, model: str | None) -> Snippets | None:
    """Return the snippets for a model, with the public URL of the gateway."""
    if model is None:
        return None
    url = f"{base_url(request)}/v1"
    asked = {"model": model, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 200}
    return Snippets(
        before=f"pip install openai\nexport {KEY_VARIABLE}=eco_...\n",
        python=PYTHON.format(base_url=json.dumps(url), model=json.dumps(model), key=KEY_VARIABLE),
        curl=CURL.format(
            url=shlex.quote(f"{url}/chat/completions"),
            key=KEY_VARIABLE,
            body=shlex.quote(json.dumps(asked)),
        ),
    )
