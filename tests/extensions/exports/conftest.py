"""Small base models of each supported architecture, and adapters for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import torch
from peft import LoraConfig, get_peft_model
from psycopg_pool import ConnectionPool
from transformers import AutoModelForCausalLM

from domain.core.aggregate import because
from domain.core.event_log import EventLog
from domain.core.quantities import GIB
from domain.jobs.documents import PROVENANCE
from extensions.exports import exporting
from extensions.exports.domain.export import Export, ExportFormat, ExportSource, export_id
from extensions.exports.exporting import Exports, Options
from extensions.exports.handlers import Cleaning
from extensions.exports.worker.write import handle
from infrastructure.artifacts.store import Artifacts
from infrastructure.bus.consumer import OrderedConsumer
from infrastructure.bus.event_handlers import EventHandlers, HandlerEffect
from infrastructure.postgres.store import Connection
from infrastructure.process.limited_process import Limits
from infrastructure.settings import Settings
from tests.builders.commands import FixedClock
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.builders.platform import Platform
from tests.builders.tiny_model import make_tiny_model
from tests.gateway.cli.conftest import job as job
from tests.gateway.cli.conftest import me as me
from tests.gateway.cli.conftest import url as url
from tests.polling import TIMEOUT_SECONDS

MODEL = "ft:tiny:0b0f8f5c3a4e"
KEPT = timedelta(days=7)
CARD = """\
# A

## Result

Good.

## Training

| Cost | $1,234.50 |

## Hyperparameters

| epochs | 3 |

## Provenance

x
"""
PRIVATE = "$1,234.50"
"""Text in the adapter's card and its provenance that a public repository must not have."""

MODULES = ["q_proj", "k_proj", "v_proj", "down_proj"]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """A second thread only slows a tiny model down."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in bfloat16, with weights so large that it does not repeat itself."""
    directory = make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")
    return widened(directory, torch.bfloat16)


def widened(directory: Path, dtype: torch.dtype) -> Path:
    """Scale the projections of a saved model, and save it in another type."""
    model: Any = AutoModelForCausalLM.from_pretrained(directory)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "proj" in name:
                parameter *= 12
    model.to(dtype).save_pretrained(directory)  # pyright: ignore[reportArgumentType]
    return directory


def make_adapter(base: Path, directory: Path, b_std: float = 0.3, **options: object) -> Path:
    """Save an adapter in float32 whose B is not zero."""
    torch.manual_seed(1)
    chosen = {"r": 8, "lora_alpha": 16, "target_modules": MODULES} | options
    config = LoraConfig(task_type="CAUSAL_LM", **chosen)  # type: ignore[arg-type]
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=b_std)
    model.save_pretrained(str(directory), save_embedding_layers=False)
    return directory


class Service:
    """The exporter with its event handlers and its work, as in its process."""

    def __init__(
        self, platform: Platform, pool: ConnectionPool[Connection], base: Path, folder: Path
    ) -> None:
        self.platform, self.pool, self.folder, self.clock = platform, pool, folder, FixedClock()
        self.artifacts: Artifacts = platform.artifacts  # the property makes a store for each call
        self.base_ref, self.adapter_ref = "models/tiny/1", "jobs/a/b/adapter"
        base_manifest = platform.artifacts.put_directory(self.base_ref, base)
        adapter = make_adapter(base, folder / "trained")
        (adapter / "README.md").write_text(CARD)
        (adapter / PROVENANCE).write_text(
            f'{{"base": {{"repository": null}}, "cost": "{PRIVATE}"}}'
        )
        adapter_manifest = platform.artifacts.put_directory(self.adapter_ref, adapter)
        self.source = ExportSource(
            base_model="tiny",
            base_ref=self.base_ref,
            base_manifest_sha256=base_manifest.sha256,
            adapter_ref=self.adapter_ref,
            adapter_manifest_sha256=adapter_manifest.sha256,
        )
        handlers = EventHandlers(Cleaning(platform.log, platform.artifacts).handlers)
        effect = HandlerEffect("exporter", platform.log, self.clock, handlers, pool.connection)
        self.consumer = OrderedConsumer(effect, platform.log)
        self.start()

    def start(self, kept_free_bytes: int = 0, limits: Limits | None = None) -> None:
        """Start the exporter again, as after a crash."""
        options = Options(
            scratch=self.folder / "scratch",
            cache=self.folder / "cache",
            model_cache_bytes=GIB,
            kept_free_bytes=kept_free_bytes,
            kept_for=KEPT,
            limits=limits,
        )
        self.exports = Exports(self.platform.log, self.clock, self.artifacts, self.pool, options)

    def request(
        self,
        format: ExportFormat = ExportFormat.SAFETENSORS,
        account_id: UUID = ACCOUNT_ID,
        job_id: UUID = JOB_ID,
        **source: str,
    ) -> Export:
        """Request an export, or request it again."""
        wanted = self.source.model_copy(update=source)
        with because(self.platform.cause):
            export = self.platform.log.find(Export, export_id(job_id, format))
            if export is None:
                export = Export.request(account_id, job_id, MODEL, format, wanted)
            export.renew(wanted)
            self.platform.log.commit(export)
        return export

    def failure(self, export: Export) -> str | None:
        """Return the code of a failed export."""
        with self.pool.connection() as connection:
            row = connection.execute(
                "SELECT failure_code FROM exports WHERE export_id = %s", [export.id]
            ).fetchone()
        assert row is not None
        return row["failure_code"]

    def delete(self, export: Export) -> None:
        with because(self.platform.cause):
            found = self.find(export)
            found.delete()
            self.platform.log.commit(found)

    def find(self, export: Export) -> Export:
        return self.platform.log.load(Export, export.id)

    def run(self) -> None:
        """Run the pending exports, and the event handlers."""
        self.platform.project()
        self.exports.start_pending()
        assert self.exports.work.finish(TIMEOUT_SECONDS)
        self.consumer.catch_up()
        self.platform.project()

    def download(self, export: Export, folder: Path) -> Path:
        """Copy the files of a finished export, and verify their hashes."""
        files = self.find(export).files
        assert files is not None
        assert self.artifacts.get_directory(files.ref, folder).sha256 == files.manifest_sha256
        return folder


@pytest.fixture
def service(
    settings: Settings,
    log: EventLog,
    pool: ConnectionPool[Connection],
    tiny_base: Path,
    tmp_path: Path,
) -> Service:
    return Service(Platform(settings, log), pool, tiny_base, tmp_path)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Write the files of exports in the process of the test, which is faster."""

    def run(_module: str, asked: dict[str, Any], _limits: Limits, report: Any) -> dict[str, Any]:
        return handle(json.loads(json.dumps(asked)), report)

    monkeypatch.setattr(exporting, "run", run)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(1)
