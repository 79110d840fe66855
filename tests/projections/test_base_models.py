"""Base models: one row for each name, with its present revision."""

from __future__ import annotations

from domain.catalog.model_shape import ModelShape
from projections import BASE_MODELS
from projections.base_models import all_base_models
from tests.builders.commands import command
from tests.builders.examples import revision
from tests.builders.history import History
from tests.builders.tiny_model import TINY_SHAPE
from tests.projections.conftest import Fold


def test_base_models_are_sorted_by_name_with_their_last_revisions(
    history: History, fold: Fold
) -> None:
    base = history.import_base("tiny")
    history.import_base("little")
    wider = TINY_SHAPE.model_copy(update={"context_length": 512})
    with command("revise"):
        base.revise(revision(ref="models/tiny-2", manifest_sha256="e" * 64, shape=wider))
        history.log.commit(base)
    little, tiny = all_base_models(fold(BASE_MODELS))
    assert (little["name"], tiny["name"]) == ("little", "tiny")
    assert (tiny["ref"], tiny["manifest_sha256"]) == ("models/tiny-2", "e" * 64)
    assert (tiny["parameters"], tiny["context_length"]) == (TINY_SHAPE.parameters, 512)
    assert ModelShape.model_validate(tiny["shape"]) == wider
