"""The base model, its tokenizer and its adapter, in the precision that the machine is good at."""

from __future__ import annotations

from copy import copy
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedTokenizerBase,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging

from domain.training.hyperparameters import Hyperparameters
from domain.training.precision import Precision
from infrastructure.artifacts import Artifacts, Manifest
from infrastructure.training_environment import ENVIRONMENT
from services.model_libraries import UNTRUSTED
from services.trainer.environment import environment_of
from services.trainer.failures import BadData
from services.trainer.kernels.lora import LoraLinear

CPU = torch.device("cpu")


class BaseChanged(Exception):
    """The stored base model is not the one that the job was approved with."""


class TargetModulesNotFound(BadData):
    """A target module names no linear layer of the base model."""


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model directory."""
    return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)


def require_base(artifacts: Artifacts, ref: str, manifest_sha256: str | None) -> Manifest:
    """A base model's manifest; raises BaseChanged if it has another hash than the given one."""
    manifest = artifacts.manifest(ref)
    if manifest_sha256 not in (None, manifest.sha256):
        raise BaseChanged(
            f"The base model under {ref} is not the one that the job was approved with: its "
            f"manifest's sha256 is {manifest.sha256}, approved was {manifest_sha256}."
        )
    return manifest


def load_base(
    directory: Path,
    dtype: torch.dtype,
    device: torch.device = CPU,
    precision: Precision = Precision.BF16,
) -> PreTrainedModel:
    """The base model of a directory, mapped from disk, on a device.

    With NF4 the linear layers are held in 4 bits and multiplied in `dtype`; the rest (embeddings,
    norms, head) is in `dtype`, as all of it is else. Source: Dettmers et al., QLoRA (2023). Its
    casting of that rest to float32 is left out: no part of it is trained, and the embeddings of a
    small base would double.
    """
    logging.disable_progress_bar()  # a log is no terminal
    if precision is not Precision.NF4:
        base = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, **UNTRUSTED)
        return base.to(device)  # pyright: ignore[reportArgumentType]  # a decorator hides `to`
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    base = AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=dtype,
        quantization_config=four_bits,
        device_map={"": device},
        **UNTRUSTED,
    )
    for layer in base.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            # For inference on such CPUs bitsandbytes would pack the weights anew, with scales
            # rounded to bfloat16: what is evaluated has to be what was trained.
            layer.support_avx512bf16_for_cpu = False  # pyright: ignore[reportArgumentType]
    if device.type == "cpu":
        _leave_file(base)
    return base


def _leave_file(base: PreTrainedModel) -> None:
    """Copy what a 4-bit base still maps from its file, so that the file leaves memory."""
    for parameter in base.parameters():  # a tied one is listed once, and stays tied
        if parameter.is_floating_point():
            parameter.data = parameter.data.clone()


def checkpoint_activations(base: PreTrainedModel) -> None:
    """Keep each layer's input only, and compute the rest again in the backward pass.

    Not re-entrant, so that no input needs a gradient; dropout's mask is the same. Source:
    Chen et al., Training Deep Nets with Sublinear Memory Cost (2016).
    """
    base.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})


def context_length(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens that the base can read at once."""
    declared = getattr(base.config, "max_position_embeddings", None)
    return int(declared or tokenizer.model_max_length)


def attach_adapter(
    base: PreTrainedModel, hyperparameters: Hyperparameters, base_name: str
) -> PeftModel:
    """A fresh LoRA adapter on the base, in float32 whatever the base's precision.

    The base is frozen and B starts at zero, so that the adapted model begins as the base. Source:
    Hu et al., LoRA (2021). Raises TargetModulesNotFound. Uses torch's random state.
    """
    # A 4-bit layer is an nn.Linear too.
    names = [name for name, module in base.named_modules() if isinstance(module, nn.Linear)]
    for target in hyperparameters.target_modules:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
            raise TargetModulesNotFound(f"{target} is no linear layer of the base; it has: {known}")
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=hyperparameters.lora_r,
        lora_alpha=hyperparameters.lora_alpha,
        lora_dropout=hyperparameters.dropout,
        use_rslora=hyperparameters.use_rslora,
        target_modules=list(hyperparameters.target_modules),
    )
    # Not part of the saved adapter, which any peft loads.
    config._register_custom_module({nn.Linear: LoraLinear})
    model = get_peft_model(base, config)
    assert isinstance(model, PeftModel)
    # The adapter names its base as the platform does, not as a path on the machine that trained it,
    # and its modules in an order that does not change from process to process, as that of a set.
    config.base_model_name_or_path = base_name
    config.target_modules = sorted(hyperparameters.target_modules)
    return model


def save_adapter(model: PeftModel, directory: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors, as plain PEFT.

    What it was trained with is written beside them.
    """
    # False, because "auto" asks the Hugging Face hub about the base's vocabulary.
    model.save_pretrained(str(directory), save_embedding_layers=False)
    # The library's own model card, of which all is left blank; the platform writes one.
    (directory / "README.md").unlink(missing_ok=True)
    (directory / ENVIRONMENT).write_text(environment_of(model).model_dump_json(indent=1))


def describe_adapter(model: PeftModel, directory: Path) -> None:
    """Write what `save_adapter` writes beside the weights, and nothing of the weights."""
    config = copy(model.peft_config["default"])
    config.inference_mode = True  # as PEFT has it in all that is saved
    config.save_pretrained(str(directory))
    (directory / ENVIRONMENT).write_text(environment_of(model).model_dump_json(indent=1))
