"""Fixtures of the trainer, for the tests of pods on several nodes."""

from tests.services.trainer.conftest import nats_server as nats_server
from tests.services.trainer.conftest import start as start
from tests.services.trainer.conftest import trainer as trainer
