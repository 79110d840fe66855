"""The limited process that writes the files of an export, without store and network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from infrastructure.process.full_disk import lacks_space
from infrastructure.process.limited_process import serve
from services.model_libraries import lean_imports

CHUNK_BYTES = 1024**2

REPORTED_BYTES = 16 * 1024**2
"""Bytes between two reports of progress."""

THREADS = 2
"""Number of threads, which may change the last bit of a product, so it is fixed."""

Report = Callable[[Mapping[str, Any]], None]


class Progress:
    """Counts bytes, and reports them from time to time."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._done = self._reported = 0

    def add(self, count: int) -> None:
        """Count bytes."""
        self._done += count
        if self._done - self._reported >= REPORTED_BYTES:
            self._reported = self._done
            self._report({"bytes": self._done})


def handle(request: dict[str, Any], report: Report) -> dict[str, Any]:
    """Write an export. Return the hashes of its files, or the reason why there is none."""
    import torch

    from extensions.exports.worker.gguf_file import CannotConvert
    from extensions.exports.worker.merged_weights import CannotMerge

    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    progress = Progress(report)
    if (damaged := _damaged(Path(request["base"]), request["base_files"], progress)) is not None:
        message = f"The base is damaged: {damaged} differs from its manifest."
        return {"code": "base_damaged", "message": message}
    try:
        return _write(request, progress)
    except CannotMerge as error:
        return {"code": "cannot_merge", "message": str(error)}
    except CannotConvert as error:
        return {"code": "cannot_convert", "message": str(error)}
    except Exception as error:
        if not lacks_space(error):
            raise
        return {"code": "no_space", "message": "The disk of EcoLink is full."}


def _write(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    from domain.jobs.documents import CARD
    from extensions.exports import documents
    from extensions.exports.domain.export import ExportFormat
    from extensions.exports.worker.merged_weights import MergedWeights
    from extensions.exports.worker.safetensors_files import write_safetensors
    from infrastructure.artifacts.store import ManifestFile

    base, adapter, out = (Path(request[name]) for name in ("base", "adapter", "out"))
    format, weights = ExportFormat(request["format"]), MergedWeights(base, adapter)
    origin = documents.Origin(
        model=request["model"],
        job_id=request["job_id"],
        format=format,
        source=request["source"],
        libraries=documents.library_versions(),
    )
    file = None
    if format.is_gguf:
        file = _write_gguf(origin, weights, base, adapter, out, progress)
    else:
        documents.copy_tokenizer(base, adapter, out)
        write_safetensors(weights, out, progress.add)
    documents.copy_documents(Path(request["licenses"]), adapter, out)
    repository, trained = documents.repository_of(adapter), documents.card_of(adapter)
    (out / CARD).write_text(documents.card(origin, file, repository, trained))
    paths = sorted(path for path in out.rglob("*") if path.is_file())
    files = [
        ManifestFile(
            path=str(path.relative_to(out)), bytes=path.stat().st_size, sha256=_sha256(path)
        )
        for path in paths
    ]
    described = origin.model_copy(update={"files": tuple(files)})
    (out / documents.ORIGIN).write_bytes(described.content)
    hashes = {each.path: each.sha256 for each in files}
    hashes[documents.ORIGIN] = hashlib.sha256(described.content).hexdigest()
    return {"hashes": hashes, "libraries": origin.libraries}


def _write_gguf(
    origin: Any, weights: Any, base: Path, adapter: Path, out: Path, progress: Progress
) -> str:
    """Write the GGUF file and the Modelfile. Return the name of the GGUF file."""
    import json

    from gguf import GGMLQuantizationType
    from transformers import AutoTokenizer

    from extensions.exports import documents
    from extensions.exports.worker.answer_ends import ends_of
    from extensions.exports.worker.gguf_file import write_gguf
    from extensions.exports.worker.gguf_tokenizer import chat_template_of
    from extensions.exports.worker.modelfile import modelfile
    from infrastructure.chat.template_rendering import TEMPLATE_FILES, ChatTemplate

    kind = GGMLQuantizationType[origin.format.removeprefix("gguf-").upper()]
    tokenizer = out.parent / "tokenizer"
    tokenizer.mkdir()
    documents.copy_tokenizer(base, adapter, tokenizer)
    name = f"{origin.model.removeprefix('ft:').replace(':', '-')}-{kind.name}.gguf"
    facts = {
        "general.name": origin.model,
        "ecolink.job_id": str(origin.job_id),
        "ecolink.adapter_manifest_sha256": origin.source.adapter_manifest_sha256,
        "ecolink.base_manifest_sha256": origin.source.base_manifest_sha256,
    }
    write_gguf(weights, tokenizer, out / name, kind, facts, progress.add)

    files = {each: tokenizer / each for each in TEMPLATE_FILES}
    found = {each: path.read_bytes() for each, path in files.items() if path.exists()}
    has_template = chat_template_of(tokenizer) is not None
    loaded = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    generation_file = tokenizer / "generation_config.json"
    generation = json.loads(generation_file.read_bytes()) if generation_file.exists() else {}
    config = json.loads((tokenizer / "config.json").read_bytes())
    text = modelfile(
        name,
        ChatTemplate.of(found) if has_template else None,
        adds_bos=loaded("a").input_ids[:1] == [loaded.bos_token_id],
        ends=ends_of(tokenizer).texts,
        context=config["max_position_embeddings"],
        generation=generation,
    )
    (out / "Modelfile").write_text(text)
    return name


def _damaged(base: Path, files: list[dict[str, str]], progress: Progress) -> str | None:
    for file in files:
        path = base / file["path"]
        if not path.is_file() or _sha256(path, progress.add) != file["sha256"]:
            return file["path"]
    return None


def _sha256(path: Path, on_bytes: Callable[[int], object] = id) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()


if __name__ == "__main__":
    lean_imports()
    serve(handle)
