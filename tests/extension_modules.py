"""Modules that the tests of extensions add to those of the core."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from infrastructure.extensions import installed


def extension_modules(name: str) -> Iterator[ModuleType]:
    """Yield `tests.extensions.<extension>.<name>` of each installed extension that has it."""
    for extension in installed():
        module = f"tests.{extension.package}.{name}"
        if find_spec(module) is not None:
            yield import_module(module)
