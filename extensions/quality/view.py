"""The quality report and the filter form of a dataset, as its page shows them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any
from uuid import UUID, uuid4

from pydantic import ValidationError
from starlette.datastructures import FormData

from domain.core.errors import Invalid
from domain.datasets.filters import DEFAULT_SIMILARITY, Filters, PersonalData
from domain.datasets.findings import ANSWERS, PERSONAL, Finding
from extensions.quality import service
from extensions.quality.domain.quality_report import TITLES, Distribution, QualityReport
from gateway.backend import Backend
from gateway.datasets import service as datasets
from gateway.datasets.schemas import DatasetResponse
from gateway.http.access import Caller
from infrastructure.accounts.profiles import dataset_names
from projections.datasets import ready_datasets

HEIGHT, BAR, GAP, LEAST = 60, 10, 2, 1.5  # in SVG units
LANGUAGES_SHOWN = 12
SIMILARITIES = (
    (0.5, "up to one word in four differs"),
    (0.6, "up to one word in six differs"),
    (DEFAULT_SIMILARITY, "up to one word in ten differs"),
    (0.8, "up to one word in twenty differs"),
    (0.9, "up to one word in fifty differs"),
    (1.0, "only equal texts, apart from case and spaces"),
)
"""Similarities that the form of filters offers, and their usual meaning."""

DATASETS_LISTED = 200


@dataclass(frozen=True)
class Bar:
    """A bar of a chart, in SVG units."""

    x: int
    y: float
    height: float
    label: str


@dataclass(frozen=True)
class Chart:
    """The number of examples by a value such as their characters."""

    title: str
    unit: str
    bars: list[Bar]
    width: int
    values: Distribution


def chart(title: str, unit: str, values: Distribution) -> Chart | None:
    """Return a chart with one bar for each range of values; None without values."""
    if not values.bars:
        return None
    most = max(bar.examples for bar in values.bars)
    bars: list[Bar] = []
    above = -1
    for at, bar in enumerate(values.bars):
        height = max(LEAST, HEIGHT * bar.examples / most)
        span = f"{bar.up_to:,}" if bar.up_to == above + 1 else f"up to {bar.up_to:,}"
        label = f"{span} {unit}: {bar.examples:,} {'example' if bar.examples == 1 else 'examples'}"
        bars.append(Bar(at * BAR + GAP // 2, round(HEIGHT - height, 2), round(height, 2), label))
        above = bar.up_to
    return Chart(title, unit, bars, len(bars) * BAR, values)


@dataclass(frozen=True)
class QualityView:
    """The quality of a valid dataset, as its page shows it."""

    report: QualityReport | None
    charts: list[Chart]
    filtered_name: str
    """Default name of a filtered version."""
    others: list[tuple[UUID, str]]
    languages: list[str]
    key: str
    """Key of the request that the form sends."""

    @property
    def titles(self) -> Mapping[Finding, str]:
        """Titles of the kinds of findings."""
        return TITLES

    @property
    def similarities(self) -> Sequence[tuple[float, str]]:
        """Similarities of near-duplicates to choose from, and their meaning."""
        return SIMILARITIES

    @property
    def similarity(self) -> float:
        """The similarity that counts without a choice, and in the report."""
        return DEFAULT_SIMILARITY

    @property
    def personal(self) -> tuple[Finding, ...]:
        """Kinds of findings that can be masked."""
        return PERSONAL

    @property
    def answers(self) -> tuple[Finding, ...]:
        """Kinds of findings about the last answer."""
        return ANSWERS


def quality_view(backend: Backend, caller: Caller, dataset: DatasetResponse) -> QualityView:
    """Return the view of a valid dataset. Raise NotFound if the account has no such dataset."""
    row = datasets.own_dataset(backend, caller, dataset.id)
    report = service.stored_quality(backend, caller, row)
    charts: list[Chart | None] = []
    languages: list[str] = []
    if report is not None:
        statistics = report.statistics
        charts = [
            chart("Characters of an example", "characters", statistics.characters),
            chart("Messages of an example", "messages", statistics.messages),
            chart("Characters of the last answer", "characters", statistics.answer_characters),
        ]
        languages = [each.code for each in statistics.languages if each.code != "und"]
    with backend.pool.connection() as connection:
        ready = ready_datasets(connection, caller.account_id, DATASETS_LISTED)
        others = [each["dataset_id"] for each in ready if each["dataset_id"] != dataset.id]
        names = dataset_names(connection, others)
    versions = datasets.versions_of(backend, caller, dataset.id)
    return QualityView(
        report=report,
        charts=[each for each in charts if each is not None],
        filtered_name=service.filtered_name(dataset.name, versions),
        others=[(each, names.get(each) or str(each)) for each in others],
        languages=languages[:LANGUAGES_SHOWN],
        key=str(uuid4()),
    )


WORDS = re.compile(r"\s+|\S+")
ELIDED = "…"

Parts = list[tuple[str, bool]]
"""Consecutive parts of a text, and True for those that differ from another text."""


def marked(old: str | None, new: str | None) -> tuple[Parts, Parts]:
    """Return the parts of an older and a newer text with their different words.

    Without one of the texts, the other has no marks. Of texts that are cut off, the different ends
    are not marked.
    """
    if not old or not new:
        return [(text, False)] if (text := old) else [], [(text, False)] if (text := new) else []
    olds, news = WORDS.findall(old), WORDS.findall(new)
    parts: tuple[Parts, Parts] = [], []
    for tag, start, end, new_start, new_end in SequenceMatcher(
        None, olds, news, autojunk=False
    ).get_opcodes():
        is_end = end == len(olds) and new_end == len(news)
        is_cut = is_end and (old.endswith(ELIDED) or new.endswith(ELIDED))
        differs = tag != "equal" and not is_cut
        parts[0].append(("".join(olds[start:end]), differs))
        parts[1].append(("".join(news[new_start:new_end]), differs))
    return tuple([each for each in side if each[0]] for side in parts)  # type: ignore[return-value]


def filters_of(form: FormData) -> Filters:
    """Return the filters in a form. Raise Invalid, with the field, if one is invalid."""
    given: dict[str, Any] = {
        "near_duplicates": "near_duplicates" in form,
        "personal_data": form.get("personal_data") or PersonalData.KEEP,
        "answers": form.getlist("answers"),
        "languages": form.getlist("languages"),
    }
    for name in ("contaminates", "similarity", "min_characters", "max_characters"):
        if value := form.get(name):
            given[name] = value
    try:
        return Filters(**given)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else "filters"
        said = first["msg"].removeprefix("Value error, ")
        if first["type"] != "value_error":
            said = f"{first['input']!r} is not possible. {said}."
        raise Invalid(f"{field}: {said}", field=field) from None
