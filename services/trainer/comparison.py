"""Side-by-side answers of a base model and its adapter to one prompt.

`python -m services.trainer.comparison --base REF --adapter REF --prompt TEXT` prints a JSON object
with the two answers.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from domain.training.precision import Precision
from infrastructure.artifacts.store import Artifacts
from infrastructure.settings import Settings
from services.model_libraries import choose_dtype, lean_imports

NEW_TOKENS = 64


def compare(
    artifacts: Artifacts,
    base_ref: str,
    adapter_ref: str,
    prompt: str,
    *,
    precision: Precision = Precision.BF16,
    new_tokens: int = NEW_TOKENS,
) -> dict[str, str]:
    """Return greedy answers to one user message: {"base": text, "adapter": text}."""
    import torch
    from peft import PeftModel

    from services.trainer.examples import Renderer
    from services.trainer.model import load_base, load_tokenizer

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(prefix="comparison-") as folder:
        scratch = Path(folder)
        base_directory = artifacts.local_directory(base_ref, scratch / "models")
        artifacts.get_directory(adapter_ref, scratch / "adapter")
        tokenizer = load_tokenizer(base_directory)
        base = load_base(base_directory, choose_dtype(device), device, precision)
        model = PeftModel.from_pretrained(base, str(scratch / "adapter")).eval()
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        chat_template=Renderer(tokenizer, new_tokens).template.source,
        add_generation_prompt=True,
        tokenize=False,
    )
    assert isinstance(text, str)
    encoding = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(model.device)

    def answer() -> str:
        with torch.inference_mode():
            output = model.generate(**encoding, max_new_tokens=new_tokens, do_sample=False)
        answered = output[0, encoding["input_ids"].shape[1] :]
        return str(tokenizer.decode(answered, skip_special_tokens=True)).strip()

    with model.disable_adapter():
        base_answer = answer()
    return {"base": base_answer, "adapter": answer()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m services.trainer.comparison")
    parser.add_argument("--base", required=True, help="artifact prefix of the base model")
    parser.add_argument("--adapter", required=True, help="artifact prefix of the adapter")
    parser.add_argument("--prompt", required=True)
    parser.add_argument(
        "--precision", type=Precision, choices=list(Precision), default=Precision.BF16
    )
    arguments = parser.parse_args()
    lean_imports(quantized=arguments.precision is Precision.NF4)
    answers = compare(
        Artifacts(Settings().artifacts),
        arguments.base,
        arguments.adapter,
        arguments.prompt,
        precision=arguments.precision,
    )
    print(json.dumps(answers, ensure_ascii=False), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
