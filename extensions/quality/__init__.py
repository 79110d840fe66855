"""Quality of datasets: findings, statistics, filters and comparisons."""

from extensions.quality.comparisons import COMPARISONS
from infrastructure.extensions import Extension, Panel

EXTENSION = Extension(
    package=__name__,
    summary="Findings and statistics of datasets, filters that make new versions, and comparisons.",
    tables=(COMPARISONS,),
    dataset_work=("analyzing:Analyzing", "filtering:Filtering", "comparing:Comparing"),
    dataset_warnings=("warnings:dataset_warnings",),
    recorded_warnings=("warnings:recorded_warnings",),
    rights={
        "datasets": {COMPARISONS.name: "SELECT, UPDATE, DELETE"},
        "gateway": {COMPARISONS.name: "SELECT, INSERT"},
    },
    api=("api:router",),
    pages=("pages:router",),
    panels={
        "dataset.cards": Panel("quality/cards.html", "view:quality_view"),
        "version.actions": Panel("quality/compare_link.html"),
    },
    commands={"datasets": "cli:dataset_commands"},
)
