"""Optional features, one folder each. See docs/extending.md.

A folder `extensions` elsewhere on Python's path adds its extensions.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
