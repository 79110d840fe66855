"""BaseModel: a name in the model store, its revisions, and its shape."""

from __future__ import annotations

from domain.catalog.base_model import BaseModel
from tests.builders.examples import happened
from tests.builders.tiny_model import TINY_SHAPE


def test_a_base_model_is_revised_by_other_content_alone() -> None:
    given = BaseModel.imported(
        "tiny", "models/tiny", "m1", "LlamaForCausalLM", 1000, 256, TINY_SHAPE
    )
    given.revise("models/tiny", "m1", "LlamaForCausalLM", 1000, 256, TINY_SHAPE)
    assert happened(given) == ["BaseModelImported"]
    wider = TINY_SHAPE.model_copy(update={"context_length": 512})
    given.revise("models/tiny", "m2", "LlamaForCausalLM", 1000, 512, wider)
    assert happened(given) == ["BaseModelRevised"]
    assert (given.context_length, given.shape) == (512, wider)


def test_a_deleted_base_comes_back_by_an_import() -> None:
    content = ("models/tiny", "m1", "LlamaForCausalLM", 1000, 256, TINY_SHAPE)
    given = BaseModel.imported("tiny", *content)
    given.delete()
    given.delete()
    assert given.deleted
    assert happened(given) == ["BaseModelImported", "BaseModelDeleted"]
    given.revise(*content)
    assert not given.deleted
    assert happened(given) == ["BaseModelRevised"]
    given.revise("models/other", *content[1:])
    given.delete()
    assert given.refs == ("models/tiny",)
