"""A model is exported by a running stack, followed on the page, downloaded and used elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.e2e.test_commands import command
from tests.polling import eventually
from tests.running import TIMEOUT_SECONDS, EcoLinkUnderTest

pytestmark = [pytest.mark.timeout(900), pytest.mark.full]

FORMAT = "gguf-f16"
ATOL = 0.01
"""Largest difference of logits, because the export has weights in 16 bits."""


@pytest.fixture
def model(ecolink: EcoLinkUnderTest, tmp_path: Path) -> str:
    """A model that the stack trained."""
    known = ecolink.client.get("/models")["models"]
    if known:
        return known[0]["model"]
    path = ecolink.approve(ecolink.dataset(tmp_path, examples=20), epochs=1)
    return ecolink.await_end(path)["model"]


def test_an_export_is_watched_downloaded_verified_and_reloaded(
    ecolink: EcoLinkUnderTest, model: str, tmp_path: Path
) -> None:
    assert ecolink.settings.gateway_url is not None
    with httpx.Client(base_url=ecolink.settings.gateway_url, follow_redirects=True) as browser:
        browser.post("/sign-in", data={"api_key": ecolink.key}).raise_for_status()

        def shown() -> str:
            """Return the row of the export on the page."""
            _, _, row = browser.get("/models/list").text.partition(f'data-export="{FORMAT}"')
            return row.partition("</li>")[0]

        with ecolink.paused("exporter"):
            ecolink.client.post(f"/models/{model}/exports", {"format": FORMAT})
            assert "<progress" in eventually(shown)
        eventually(lambda: 'data-status="ready"' in shown(), TIMEOUT_SECONDS)
        assert "Download" in shown()
    export = ecolink.client.get(f"/models/{model}/exports/{FORMAT}")

    out = tmp_path / "out"
    finished(ecolink, "models", "export", model, "--format", FORMAT, "--out", str(out))
    listed = ecolink.client.get(f"/models/{model}/exports/{FORMAT}/files")["data"]
    assert {each.name for each in out.iterdir()} == {each["path"] for each in listed}
    assert export["manifest_sha256"] in {each["sha256"] for each in listed}
    verify = ("models", "verify", model, "--export", FORMAT, "--directory", str(out))
    finished(ecolink, *verify)

    base, adapter = tmp_path / "base", tmp_path / "adapter"
    ecolink.artifacts.get_directory("models/tiny", base)
    finished(ecolink, "models", "download", model, "--to", str(adapter))
    compare(base, adapter, out)
    (file,) = out.glob("*.gguf")
    file.write_bytes(file.read_bytes()[:-1] + b"\0\0")
    assert "differs" in finished(ecolink, *verify, code=1)


def finished(ecolink: EcoLinkUnderTest, *arguments: str, code: int = 0) -> str:
    """Return the output of a command that exits with a code."""
    running = command(ecolink, *arguments)
    output, _ = running.communicate(timeout=TIMEOUT_SECONDS)
    assert running.returncode == code, output
    return output


def compare(base: Path, adapter: Path, exported: Path) -> None:
    """Compare the logits and greedy answers of a GGUF file with those of a merged model."""
    (file,) = exported.glob("*.gguf")
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged: Any = PeftModel.from_pretrained(plain, str(adapter)).merge_and_unload()
    model: Any = AutoModelForCausalLM.from_pretrained(
        exported, gguf_file=file.name, dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(exported, gguf_file=file.name)
    tokens = tokenizer("What is 2 plus 2?", return_tensors="pt").input_ids
    with torch.no_grad():
        difference = (merged(tokens).logits - model(tokens).logits).abs().max()
    assert difference < ATOL
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False}
    assert torch.equal(merged.generate(tokens, **options), model.generate(tokens, **options))
