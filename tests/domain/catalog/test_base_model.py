from __future__ import annotations

from domain.catalog.base_model import BaseModel
from tests.builders.examples import REVISION, happened, revision
from tests.builders.tiny_model import TINY_SHAPE


def test_a_base_model_is_revised_by_other_content_alone() -> None:
    given = BaseModel.imported("tiny", REVISION)
    given.revise(REVISION)
    assert happened(given) == ["BaseModelImported"]
    wider = revision(
        manifest_sha256="m2", shape=TINY_SHAPE.model_copy(update={"context_length": 512})
    )
    given.revise(wider)
    assert happened(given) == ["BaseModelRevised"]
    assert given.revision == wider


def test_a_deleted_base_comes_back_by_an_import() -> None:
    given = BaseModel.imported("tiny", REVISION)
    given.delete()
    given.delete()
    assert given.deleted
    assert happened(given) == ["BaseModelImported", "BaseModelDeleted"]
    given.revise(REVISION)
    assert not given.deleted
    assert happened(given) == ["BaseModelRevised"]
    given.revise(revision(ref="models/other"))
    given.delete()
    assert given.refs == (REVISION.ref,)
