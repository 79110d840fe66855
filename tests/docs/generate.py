"""Write the generated pages of `docs/`: `make docs`.

Their texts come from the code: docstrings, field descriptions, help texts. A test fails while a
page differs from what this module makes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from os.path import relpath
from pathlib import Path

from infrastructure.training.bus_document import as_yaml
from tests.docs import (
    access,
    bus,
    bus_access,
    cli,
    decisions,
    events,
    exit_codes,
    hyperparameters,
    operator_pages,
    routes,
    settings,
    states,
    stored_events,
)
from tests.extension_modules import extension_modules

DOCS = Path(__file__).parents[2] / "docs"

PAGES: dict[str, Callable[[], str]] = {
    "understand/decisions/README.md": lambda: decisions.page(DOCS / "understand/decisions"),
    "reference/access.md": access.page,
    "reference/asyncapi.yaml": as_yaml,
    "reference/bus.md": bus.page,
    "reference/bus-access.md": bus_access.page,
    "reference/cli.md": cli.page,
    "reference/events.md": events.page,
    "reference/exit-codes.md": exit_codes.page,
    "reference/hyperparameters.md": hyperparameters.page,
    "reference/operator-pages.md": operator_pages.page,
    "reference/routes.md": routes.page,
    "reference/settings.md": settings.page,
    "reference/states.md": states.page,
}
for path, aggregates in stored_events.files():
    PAGES[relpath(path, DOCS)] = partial(stored_events.page, path, aggregates)
for module in extension_modules("reference"):
    PAGES |= getattr(module, "PAGES", {})


def main() -> None:
    """Write every page that differs."""
    for name, make in PAGES.items():
        path, made = DOCS / name, make()
        if not path.exists() or path.read_text() != made:
            path.parent.mkdir(exist_ok=True)
            path.write_text(made)
            print(f"wrote docs/{name}")


if __name__ == "__main__":
    main()
