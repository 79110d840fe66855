"""`ecolink bench wizard`: how soon the wizard's page has a new estimate after a change."""

from __future__ import annotations

import random
import re
import time
from statistics import median, quantiles
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from deploy.bench.aims import Verdict, conclude
from gateway.cli.client import Client, ClientError
from gateway.cli.terminal import client_of

AIM_SECONDS = 0.2
PATH = "/fine-tune/new"

CHANGES: dict[str, list[str]] = {
    "epochs": ["1", "2", "3", "5", "10", "x"],
    "learning_rate": ["1e-4", "2e-4", "5e-4", "0.001"],
    "lora_r": ["4", "8", "16", "32", "64"],
    "micro_batch_size": ["1", "2", "4", "8", "16"],
    "gradient_accumulation": ["1", "2", "4", "8"],
    "max_sequence_length": ["", "32", "64", "128", "4096"],
    "save_steps": ["10", "50", "100"],
    "gpu_count": ["1", "2"],
}


def bench(
    ctx: typer.Context,
    changes: Annotated[int, typer.Option(min=20, help="How many.")] = 200,
    seed: Annotated[int, typer.Option(help="Of what is changed.")] = 1,
) -> None:
    """Change the wizard's form again and again on a running gateway, as a browser would.

    The account has to have a dataset that is ready; its draft is replaced by a changed one. The
    exit code is 1 if the 95th percentile is over 200 ms.
    """
    endpoint = ctx.obj.endpoint()
    with client_of(ctx) as client, httpx.Client(base_url=endpoint.url, timeout=30.0) as browser:
        _sign_in(browser, endpoint.key)
        form = _form(client, browser)
        seconds = _measure(browser, form, random.Random(seed), changes)
    p95 = quantiles(seconds, n=20, method="inclusive")[-1]
    figure = (
        f"{changes} changes: p50 {median(seconds) * 1000:.0f} ms, most "
        f"{max(seconds) * 1000:.0f} ms, p95 {p95 * 1000:.0f} ms"
    )
    aim = f"{AIM_SECONDS * 1000:.0f} ms"
    conclude(Console(highlight=False), [Verdict(figure, aim, p95 <= AIM_SECONDS)])


def _sign_in(browser: httpx.Client, key: str) -> None:
    """Begin a session; raises ClientError."""
    answer = browser.post("/sign-in", data={"api_key": key})
    token = re.search('"x-csrf-token": "([^"]+)"', browser.get(PATH).text)
    if answer.is_error or token is None:
        raise ClientError("the key does not sign a browser in")
    browser.headers.update({"x-csrf-token": token[1], "hx-request": "true"})


def _form(client: Client, browser: httpx.Client) -> dict[str, Any]:
    """A form that can be priced; raises ClientError."""
    ready = [each for each in client.get("/datasets")["data"] if each["examples"]]
    bases = [
        each
        for each in client.get("/models")["base_models"]
        if each["eligible"] and each["deployment"] == "active"
    ]
    if not ready or not bases:
        raise ClientError("the wizard needs a dataset that is ready, and a base that is deployed")
    page = browser.get(PATH).text
    typed = re.findall(r'<input[^>]* name="(\w+)" value="([^"]*)"', page)
    chosen = re.findall(r'<select[^>]* name="(\w+)" data-chosen="([^"]*)"', page)
    fields = {name: value for name, value in [*typed, *chosen] if name != "target_modules"}
    return fields | {
        "dataset": ready[0]["id"],
        "base_model": bases[0]["name"],
        "target_modules": ["q_proj", "v_proj"],
    }


def _measure(
    browser: httpx.Client, form: dict[str, Any], lot: random.Random, changes: int
) -> list[float]:
    """Seconds of each change, from the request to the whole answer."""
    seconds = []
    for revision in range(1, changes + 1):
        form["revision"] = revision
        name = lot.choice(sorted(CHANGES))
        form[name] = lot.choice(CHANGES[name])
        started = time.perf_counter()
        answer = browser.post(f"{PATH}/estimate", data=form)
        seconds.append(time.perf_counter() - started)
        answer.raise_for_status()
        if 'id="step-5"' not in answer.text:
            raise ClientError("the answer is not the form")
    return seconds
