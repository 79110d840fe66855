"""`ecolink models chat`: one question to a deployed model, answered as it is said."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from gateway.cli.tables import tame
from gateway.cli.terminal import AsJson, client_of, note

TEMPERATURE = 0.7
"""As the playground's. The API's is 1, as OpenAI's, at which small models talk nonsense."""


def chat(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="A base, ft:..., or a deployed checkpoint.")],
    prompt: Annotated[
        str | None, typer.Argument(help="What to say.  \\[default: what comes on standard input]")
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system message before it.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer.")] = None,
    temperature: Annotated[
        float, typer.Option(min=0.0, max=2.0, help="0 always takes the likeliest token.")
    ] = TEMPERATURE,
    top_p: Annotated[float | None, typer.Option(min=0.0, max=1.0)] = None,
    seed: Annotated[int | None, typer.Option(help="The same one gives the same answer.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask a deployed model something; with --json the whole answer at once, in OpenAI's shape."""
    said = _said(prompt)
    asked = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "messages": [
            *([] if system is None else [{"role": "system", "content": system}]),
            {"role": "user", "content": said},
        ],
    }
    body = {"model": model} | {name: value for name, value in asked.items() if value is not None}
    with client_of(ctx) as client:
        if as_json:
            (answer,) = client.chat(body)
            print(json.dumps(answer, indent=1))
        else:
            _print_pieces(client.chat(body | {"stream": True}))


def _said(prompt: str | None) -> str:
    """The prompt, given or piped in; raises BadParameter without one."""
    if prompt is None and sys.stdin.isatty():
        note("Type what to say; Ctrl-D ends it.")
    said = sys.stdin.read().strip() if prompt is None else prompt
    if not said:
        raise typer.BadParameter("say something, as the prompt or on standard input")
    return said


def _print_pieces(pieces: Iterable[dict[str, Any]]) -> None:
    for piece in pieces:
        for choice in piece["choices"]:
            print(tame(choice["delta"].get("content") or ""), end="", flush=True)
    print()
