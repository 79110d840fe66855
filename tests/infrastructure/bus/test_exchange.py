"""Messages and stored values of the next version are read at each boundary of a process."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
from pydantic import BaseModel, ValidationError

from domain.jobs.failures import FailureClass, MemoryShortage
from domain.training.precision import Precision
from domain.training.truncation import Truncation
from gateway.jobs.schemas import FailureResponse, warnings_of_job
from infrastructure.bus.exchange import read
from infrastructure.settings import Settings
from infrastructure.training import reports
from infrastructure.training.reports import SPEC_FORMAT, PodSeen, Report, SegmentSpec, StepMeasured
from services.projector.measuring import store
from services.scheduler.app import record_all
from services.trainer import __main__ as trainer
from tests.builders.commands import NOW
from tests.builders.examples import ACCOUNT_ID, JOB_ID, estimate_at
from tests.builders.next_version import UNKNOWN, from_next_version
from tests.builders.reports import CHECKPOINT, EVALUATION, training
from tests.services.trainer.segments import SegmentStore

ROOT = Path(__file__).parents[3]
PRODUCT = ("domain", "infrastructure", "services", "gateway", "deploy", "projections")
STEP = StepMeasured(
    account_id=ACCOUNT_ID,
    job_id=JOB_ID,
    segment=1,
    step=1,
    total_steps=2,
    train_loss=1.0,
    smoothed_loss=1.0,
    learning_rate=0.1,
    tokens=7,
    tokens_per_second=7.0,
    elapsed_seconds=1.0,
    measured_at=NOW,
)


def test_the_scheduler_reads_a_report() -> None:
    sent, segments = training(checkpoint=CHECKPOINT, evaluation=EVALUATION), Mock()
    record_all(segments, [from_next_version(sent)])
    segments.record.assert_called_once_with(sent)


def test_the_projector_reads_measurements() -> None:
    pool, added = Mock(), list[StepMeasured]()
    pool.connection = lambda: nullcontext(MagicMock())
    store(StepMeasured, lambda _, each: added.append(each), pool, [from_next_version(STEP)])
    assert added == [STEP]


def test_a_trainer_reads_a_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SegmentStore(tmp_path).spec(gpu_count=2, resume_from=(CHECKPOINT,), precision="bf16")
    launched: list[Any] = []
    monkeypatch.setattr(trainer, "launch", lambda *given: launched.append(given) or 0)
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(from_next_version(spec)))
    assert trainer.main(path, Settings(home=tmp_path)) == 0
    assert launched[0][1] == 2
    assert read(SegmentSpec, path.read_bytes()) == spec
    assert spec.precision is Precision.BF16


def test_a_trainer_refuses_a_spec_whose_new_fields_it_must_not_ignore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(reports, "SPEC_FORMAT", SPEC_FORMAT + 1)
        spec = SegmentStore(tmp_path).spec(spec_format=SPEC_FORMAT + 1)
    path = tmp_path / "spec.json"
    path.write_text(spec.model_dump_json())
    with pytest.raises(ValidationError, match="Upgrade EcoLink where trainers run"):
        trainer.main(path, Settings(home=tmp_path))


@pytest.mark.parametrize(
    "message",
    [
        training(checkpoint=CHECKPOINT, evaluation=EVALUATION),
        PodSeen(account_id=ACCOUNT_ID, job_id=JOB_ID, segment=1, elapsed_seconds=1.5),
        reports.Control(job_id=JOB_ID, segment=1, paid_seconds=5),
        reports.StoreCredentials(
            access_key_id="a", secret_access_key="b", session_token="c", expires_at=NOW
        ),
        estimate_at(3_600_000),
    ],
    ids=lambda message: type(message).__name__,
)
def test_every_model_is_read_without_unknown_fields_and_written_exactly(message: BaseModel) -> None:
    kind, document = type(message), from_next_version(message)
    assert read(kind, document) == read(kind, json.dumps(document).encode()) == message
    with pytest.raises(ValidationError):
        kind.model_validate(message.model_dump() | UNKNOWN)


def test_an_unknown_field_excuses_no_invalid_one() -> None:
    with pytest.raises(ValidationError):
        read(Report, from_next_version(training()) | {"n": "many"})


def test_the_gateway_reads_values_in_read_models() -> None:
    shortage = MemoryShortage(
        rows=1, tokens=2, micro_batch_size=1, gradient_accumulation=1, peak_bytes=5
    )
    row = {
        "failure": FailureClass.OUT_OF_MEMORY,
        "shortage": from_next_version(shortage),
        "status": "failed",
        "halved_micro_batch_size": None,
    }
    assert FailureResponse.of(row) is not None
    cut = Truncation(
        limit=8, examples=4, truncated=4, trainable_tokens=9, kept_tokens=1, teaching=1
    )
    row = {"truncation": from_next_version(cut), "hyperparameters": {}}
    assert warnings_of_job(row)


def test_no_code_parses_a_message_without_read() -> None:
    kinds = [
        each.__name__
        for each in vars(reports).values()
        if isinstance(each, type) and issubclass(each, reports.Message)
    ]
    parsed = re.compile(rf"\b({'|'.join(kinds)})\.model_validate")
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for package in PRODUCT
        for path in (ROOT / package).rglob("*.py")
        for match in parsed.finditer(path.read_text())
    ]
    assert found == [], "use infrastructure.bus.exchange.read"
