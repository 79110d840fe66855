"""The base model, its tokenizer and its adapter."""

from __future__ import annotations

from copy import copy
from pathlib import Path

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file
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
from infrastructure.artifacts.store import ArtifactCorrupt, Artifacts, Manifest
from infrastructure.training.environment import ENVIRONMENT
from infrastructure.training.reports import SegmentSpec
from services.model_libraries import UNTRUSTED, context_of
from services.trainer.environment import environment_of
from services.trainer.failures import BadData
from services.trainer.kernels.lora import LoraLinear
from services.trainer.state import WEIGHTS

CPU = torch.device("cpu")


class BaseChanged(Exception):
    """The stored base model is not the approved one."""


class StartLost(BadData):
    """The adapter that the job continues is missing, changed, or does not fit."""


class TargetModulesNotFound(BadData):
    """A target module is not a linear layer of the base model."""


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)


def require_base(artifacts: Artifacts, ref: str, manifest_sha256: str | None) -> Manifest:
    """Return a base model's manifest, or raise BaseChanged for an unapproved hash."""
    manifest = artifacts.manifest(ref)
    if manifest_sha256 not in (None, manifest.sha256):
        raise BaseChanged(
            f"The base model under {ref} changed after the approval: its manifest's SHA-256 is "
            f"{manifest.sha256}, not {manifest_sha256}. Start a new job."
        )
    return manifest


def load_base(
    directory: Path,
    dtype: torch.dtype,
    device: torch.device = CPU,
    precision: Precision = Precision.BF16,
) -> PreTrainedModel:
    """Load a base model from a directory onto a device.

    With NF4, linear layers are stored in 4 bits and multiplied in `dtype`. Source: Dettmers et al.,
    QLoRA (2023). Unlike in QLoRA, embeddings, norms and the head stay in `dtype` instead of
    float32. They are not trained, and float32 would double their size.
    """
    logging.disable_progress_bar()  # the log is not a terminal
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
        directory, dtype=dtype, quantization_config=four_bits, device_map={"": device}, **UNTRUSTED
    )
    for layer in base.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            # Otherwise, bitsandbytes repacks the weights for inference on such CPUs, with scales
            # rounded to bfloat16. Evaluation must use the same weights as training.
            layer.support_avx512bf16_for_cpu = False  # pyright: ignore[reportArgumentType]
    if device.type == "cpu":
        # Copied, so that the file is no longer mapped. Tied parameters are listed once.
        for parameter in base.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.clone()
    return base


def checkpoint_activations(base: PreTrainedModel) -> None:
    """Keep only each layer's input, and recompute the rest (Chen et al., 2016)."""
    # Non-reentrant, so that no input needs a gradient.
    base.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})


def context_length(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the context length of the base model in tokens."""
    return context_of(base.config) or int(tokenizer.model_max_length)


def attach_adapter(
    base: PreTrainedModel, hyperparameters: Hyperparameters, base_name: str
) -> PeftModel:
    """Attach a new LoRA adapter to the base model, in float32 whatever the model's precision is.

    B starts at zero, so the adapted model starts as the base model. Source: Hu et al., LoRA (2021).
    The magnitudes of DoRA start as the norms of the base model's weights. A is drawn from torch's
    random state. Raise TargetModulesNotFound if a target module is not a linear layer.
    """
    # A 4-bit layer is an nn.Linear too.
    names = [name for name, module in base.named_modules() if isinstance(module, nn.Linear)]
    for target in hyperparameters.target_modules:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
            raise TargetModulesNotFound(
                f"The base model has no linear layer named {target}. Choose from: {known}."
            )
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=hyperparameters.lora_r,
        lora_alpha=hyperparameters.lora_alpha,
        lora_dropout=hyperparameters.dropout,
        use_rslora=hyperparameters.use_rslora,
        use_dora=hyperparameters.use_dora,
        target_modules=list(hyperparameters.target_modules),
    )
    # Not saved with the adapter, so any version of PEFT can load it.
    config._register_custom_module({nn.Linear: LoraLinear})
    model = get_peft_model(base, config)
    assert isinstance(model, PeftModel)
    if hyperparameters.use_dora:
        _start_magnitudes(model)
    # EcoLink's name of the base model instead of a path, and a fixed order of modules.
    config.base_model_name_or_path = base_name
    config.target_modules = sorted(hyperparameters.target_modules)
    return model


def _start_magnitudes(model: PeftModel) -> None:
    """Set the magnitudes of DoRA to the norms. PEFT rounds both to the base model's dtype."""
    (adapter,) = model.active_adapters
    for layer in model.modules():
        if isinstance(layer, LoraLinear):
            layer.magnitude(adapter).data = layer.norms(adapter)


def load_start(model: PeftModel, artifacts: Artifacts, spec: SegmentSpec, scratch: Path) -> None:
    """Give the adapter the weights of the adapter that the job continues.

    The optimizer starts without state. Raise StartLost if the adapter is not the approved one.
    """
    assert spec.start_ref is not None
    try:
        load_weights(model, artifacts, spec.start_ref, spec.start_manifest_sha256, scratch)
    except (FileNotFoundError, ArtifactCorrupt) as error:
        raise StartLost(
            "The model that the job continues was deleted or damaged after the approval. Start a "
            "job from another model."
        ) from error
    except ValueError as error:
        raise StartLost("The model that the job continues has an adapter of another shape.") from (
            error
        )


def load_weights(
    model: PeftModel, artifacts: Artifacts, ref: str, manifest_sha256: str | None, scratch: Path
) -> None:
    """Give the adapter stored weights of its shape. Raise ValueError for another shape."""
    manifest = artifacts.get_directory(ref, scratch, only=(WEIGHTS,))
    if manifest.sha256 != manifest_sha256:
        raise ArtifactCorrupt(f"the manifest of {ref} has another hash")
    weights = load_file(scratch / WEIGHTS)
    own = get_peft_model_state_dict(model, save_embedding_layers=False)
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    if shapes != {name: tensor.shape for name, tensor in own.items()}:
        raise ValueError(f"The adapter under {ref} has another shape.")
    set_peft_model_state_dict(model, weights)


def save_adapter(model: PeftModel, directory: Path) -> None:
    """Write the adapter in PEFT's format, and the training environment."""
    # "auto" would query the Hugging Face hub for the vocabulary of the base model.
    model.save_pretrained(str(directory), save_embedding_layers=False)
    # PEFT's model card is empty. EcoLink writes its own.
    (directory / "README.md").unlink(missing_ok=True)
    (directory / ENVIRONMENT).write_text(environment_of(model).model_dump_json(indent=1))


def describe_adapter(model: PeftModel, directory: Path) -> None:
    """Write the files of `save_adapter` except the weights."""
    config = copy(model.peft_config["default"])
    config.inference_mode = True  # as PEFT saves it
    config.save_pretrained(str(directory))
    (directory / ENVIRONMENT).write_text(environment_of(model).model_dump_json(indent=1))
