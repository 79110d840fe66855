"""The pages of generated datasets in their states."""

from __future__ import annotations

from tests.browser.states import State

STATES = (
    State("datasets-generate", "/datasets/generate", "mary", dark=True, phone=True),
    State("synthesis-generating", "synthesis generating", "vera", dark=True, phone=True),
    State("synthesis-paused", "synthesis paused", "vera", phone=True),
    State("synthesis-reviewing", "synthesis reviewing", "vera", dark=True, phone=True),
)
