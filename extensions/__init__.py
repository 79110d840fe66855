"""Optional features, one folder each. See docs/contribute/extending.md.

A folder `extensions` without `__init__.py` elsewhere on Python's path adds its extensions. One with
this file belongs to another copy of EcoLink.
"""

from pathlib import Path
from pkgutil import extend_path

__path__ = [
    *__path__,
    *(each for each in extend_path(__path__, __name__) if not Path(each, "__init__.py").exists()),
]
