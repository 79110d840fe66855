"""The fixtures of tests of rules."""

from tests.domain.conftest import *  # noqa: F403
