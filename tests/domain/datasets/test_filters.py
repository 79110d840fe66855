"""Filters of datasets."""

from __future__ import annotations

from uuid import uuid4

import pytest
from pydantic import ValidationError

from domain.core.errors import Invalid
from domain.datasets.filters import Filters, PersonalData
from domain.datasets.findings import PERSONAL, Finding


def test_equal_choices_are_equal_filters() -> None:
    one = Filters(languages=("en", "de", "en"), answers=(Finding.REFUSAL, Finding.SHORT_ANSWER))
    other = Filters(languages=("de", "en"), answers=(Finding.SHORT_ANSWER, Finding.REFUSAL))
    assert one == other
    assert Filters(personal_kinds=tuple(reversed(PERSONAL))) == Filters()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"languages": ("english",)}, "Unknown language 'english'"),
        ({"answers": ("email_address",)}, "email_address is not allowed here"),
        ({"personal_kinds": ("refusal",)}, "refusal is not allowed here"),
        ({"personal_kinds": (), "personal_data": "mask"}, "personal_kinds is empty"),
        ({"min_characters": 10, "max_characters": 9}, "min_characters is 10, above"),
        ({"min_characters": -1}, "greater than or equal to 0"),
        ({"answers": [["refusal"]]}, r"\['refusal'\] is not allowed here"),
        ({"answers": "refusal"}, "valid tuple"),
        ({"similarity": 0.4}, "greater than or equal to 0.5"),
        ({"near": True}, "Extra inputs"),
    ],
)
def test_invalid_filters_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Filters(**wrong)  # type: ignore[arg-type]


def test_filters_say_what_they_do_and_need_one_choice() -> None:
    with pytest.raises(Invalid, match="No filter is chosen"):
        Filters().require_some()
    chosen = Filters(
        near_duplicates=True,
        contaminates=uuid4(),
        personal_data=PersonalData.MASK,
        answers=(Finding.REFUSAL,),
        min_characters=0,
        max_characters=5000,
        languages=("en",),
    )
    chosen.require_some()
    assert chosen.sentences() == [
        "Removes near-duplicates.",
        "Removes examples that are also in a validation dataset.",
        "Masks personal data.",
        "Removes examples with a refusal.",
        "Removes examples with fewer than 0 characters.",
        "Removes examples with more than 5,000 characters.",
        "Keeps examples in en.",
    ]
    lower = Filters(near_duplicates=True, similarity=0.5)
    assert lower.sentences() == ["Removes near-duplicates, from a similarity of 50%."]
