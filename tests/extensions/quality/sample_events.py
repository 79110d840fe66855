"""Datasets of the sample platform with quality reports, versions and comparisons."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from uuid import UUID, uuid4

from domain.core.aggregate import Cause, because
from domain.datasets.dataset import Dataset, Quality, UploadOptions
from domain.datasets.filters import Filters, PersonalData
from extensions.quality.analyzing import QUALITY, Analyzing
from extensions.quality.comparing import Comparing
from extensions.quality.comparisons import (
    ComparisonKind,
    Key,
    finish_comparison,
    request_comparison,
)
from extensions.quality.domain.quality_report import Contamination, QualityReport
from extensions.quality.filtering import Filtering
from gateway.backend import Backend
from infrastructure.accounts.profiles import set_dataset_name
from infrastructure.bus.exchange import read
from infrastructure.process.limited_process import Exceeded
from services.datasets.limited_work import Resources
from services.datasets.unpacking import Sizes
from services.datasets.validating import Validating
from tests.builders.commands import FixedClock
from tests.builders.past_job import PastJob
from tests.builders.planted import EDIT_RATES, PERSONAL_DATA, Writer, line_of

DUTCH = "Waar is mijn bestelling gebleven en wanneer komt het pakket eindelijk aan bij ons thuis?"
REFUSAL = "I'm sorry, but I can't help with that."
CUT = "The parcel goes to the nearest station, and from there the courier brings it to you by "


def planted_chats(most: int | None = None) -> bytes:
    """Return chats with findings of each kind, or the first of them."""
    writer = Writer(11)
    chats = [writer.chat() for _ in range(60)]
    chats += [writer.edited(chat, rate) for chat in chats[:12] for rate in EDIT_RATES[1:3]]
    for make in PERSONAL_DATA.values():
        chats += [writer.with_inserted(writer.chat(), make(Random(n))) for n in range(2)]
    chats += [[DUTCH, f"{DUTCH} {DUTCH}"], [writer.text(2), REFUSAL], [writer.text(3), "Yes"]]
    chats += [[writer.text(2), CUT * 4 + "night"], [writer.text(2), writer.text(400)]]
    return b"".join(line_of(chat) + b"\n" for chat in chats[:most])


SHARED = Contamination(
    unit="line",
    examples=97,
    total=110,
    validation_examples=60,
    validation_total=110,
    exact=2,
    near=2,
    affected=3,
    lines=(4, 17, 23, 61),
    samples=(),
    stopped="time",
)


def add(backend: Backend, job: PastJob) -> dict[str, str]:
    """Add datasets of a job's account. Return their paths by name."""
    return SampleQuality(backend, job.account_id).add()


@dataclass(frozen=True)
class SampleQuality:
    """Adds datasets of one account."""

    backend: Backend
    account_id: UUID

    def add(self) -> dict[str, str]:
        """Add datasets with many findings, none, and without a report. Return paths by name."""
        many = self._uploaded("support chats of 2025, all regions", planted_chats(), 600)
        Analyzing(self._resources).analyze(many.id)
        report = read(QualityReport, self.backend.artifacts.get(f"{many.home}/{QUALITY}"))
        filters = Filters(near_duplicates=True, personal_data=PersonalData.MASK)
        none = self._filtered("support chats of 2025, all regions", many, filters, 400)
        self._analyzed(none, report, examples=70, analyzed=70, compared=70, findings=())
        more = self._uploaded("support chats of 2026", planted_chats(70), 90, none)
        waiting = self._uploaded("analyzing", planted_chats(), 2)
        partial = self._uploaded("partial", planted_chats(), 50)
        self._analyzed(
            partial, report, analyzed=61, compared=50, crowded=7, stopped=Exceeded.TIME.value
        )
        failed = self._uploaded("failed", planted_chats(), 40)
        self._analyzed(
            failed,
            QualityReport(
                unit="line", examples=report.examples, analyzed=0, compared=0, stopped="memory"
            ),
        )
        self._compare(none, many, ComparisonKind.DIFFERENCE)
        self._end(more, many, ComparisonKind.DIFFERENCE, None)
        self._end(partial, many, ComparisonKind.CONTAMINATION, SHARED)
        paths = {
            f"quality {name}": f"/datasets/{each.id}"
            for name, each in {
                "many": many, "none": none, "analyzing": waiting, "partial": partial,
                "failed": failed,
            }.items()
        }  # fmt: skip
        for name, new in {"done": none, "waiting": failed, "failed": more}.items():
            paths[f"difference {name}"] = f"/datasets/{new.id}/difference?base={many.id}"
        return paths

    @property
    def _resources(self) -> Resources:
        backend = self.backend
        clock = FixedClock(backend.clock.now())
        sizes = Sizes(10**9, 10**9)
        return Resources(backend.log, clock, backend.artifacts, backend.pool, sizes)

    def _uploaded(
        self, name: str, content: bytes, minutes_ago: int, parent: Dataset | None = None
    ) -> Dataset:
        ref = f"uploads/{uuid4()}"
        self.backend.artifacts.put(ref, content)
        options = UploadOptions(parent=parent and parent.id)
        return self._recorded(name, ref, hashlib.sha256(content).hexdigest(), options, minutes_ago)

    def _filtered(self, name: str, parent: Dataset, filters: Filters, minutes_ago: int) -> Dataset:
        options = UploadOptions(parent=parent.id, filters=filters)
        return self._recorded(name, parent.ref, parent.sha256, options, minutes_ago)

    def _recorded(
        self, name: str, ref: str, sha256: str, options: UploadOptions, minutes_ago: int
    ) -> Dataset:
        """Record a dataset and validate it."""
        id, size = uuid4(), self.backend.artifacts.size(ref)
        at = self.backend.clock.now() - timedelta(minutes=minutes_ago)
        with because(Cause(f"account:{self.account_id}", str(uuid4()), at)):
            self.backend.ecolink.upload_dataset(self.account_id, id, ref, sha256, size, options)
        with self.backend.pool.connection() as connection:
            set_dataset_name(connection, id, name)
        kind = Filtering if options.is_filtered else Validating
        kind(self._resources).validate(id)
        return self.backend.log.load(Dataset, id)

    def _analyzed(self, dataset: Dataset, report: QualityReport, **changes: object) -> None:
        """Record a report, with changes, as that of a dataset."""
        report = report.model_copy(update=changes)
        content, ref = report.model_dump_json().encode(), f"{dataset.home}/{QUALITY}"
        self.backend.artifacts.put(ref, content)
        counts = {str(kind): count for kind, count in report.counts.items()}
        quality = Quality(
            report_ref=ref,
            report_sha256=hashlib.sha256(content).hexdigest(),
            analyzed=report.analyzed,
            findings=counts,
        )
        with because(Cause("service:datasets", str(uuid4()), self.backend.clock.now())):
            dataset.record_quality(quality)
            self.backend.log.commit(dataset)

    def _compare(self, new: Dataset, old: Dataset, kind: ComparisonKind) -> None:
        key = self._requested(new, old, kind)
        Comparing(self._resources).compare(key)

    def _end(
        self, new: Dataset, old: Dataset, kind: ComparisonKind, result: Contamination | None
    ) -> None:
        """End a comparison with a result, or as failed."""
        key, ref = self._requested(new, old, kind), None
        if result is not None:
            ref = f"{new.home}/comparisons/{kind}-{old.id}.json"
            self.backend.artifacts.put(ref, result.model_dump_json().encode())
        with self.backend.pool.connection() as connection:
            finish_comparison(connection, key, ref, {"affected": 3, "exact": 2, "near": 2})

    def _requested(self, new: Dataset, old: Dataset, kind: ComparisonKind) -> Key:
        key = (new.id, old.id, kind)
        with self.backend.pool.connection() as connection:
            request_comparison(connection, self.account_id, key)
        return key
