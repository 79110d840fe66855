"""A small HTML reader: text by element ID, and the fields that a form would send."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = frozenset({"input", "img", "link", "meta", "br", "hr", "rect"})


@dataclass
class Node:
    """An element, or a text."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Node | str] = field(default_factory=list)

    def all(self) -> Iterator[Node]:
        """Yield this element and its descendants in order."""
        yield self
        for child in self.children:
            if isinstance(child, Node):
                yield from child.all()

    def find(self, element_id: str) -> Node | None:
        """Return the element with an ID."""
        return next((each for each in self.all() if each.attributes.get("id") == element_id), None)

    def __getitem__(self, element_id: str) -> Node:
        found = self.find(element_id)
        assert found is not None, f"no #{element_id}"
        return found

    @property
    def text(self) -> str:
        """Return its text with single spaces."""
        parts = [child if isinstance(child, str) else f" {child.text} " for child in self.children]
        return " ".join("".join(parts).split())

    @property
    def raw(self) -> str:
        """Return its own text unchanged."""
        return "".join(child for child in self.children if isinstance(child, str))

    @property
    def fields(self) -> dict[str, str | list[str]]:
        """Return the form fields in it as a browser would send them."""
        sent: dict[str, str | list[str]] = {}
        for each in self.all():
            name, value = each.attributes.get("name"), each.attributes.get("value", "")
            if name is None or "disabled" in each.attributes:
                continue
            if each.tag == "select":
                options = [option for option in each.all() if option.tag == "option"]
                chosen = [o for o in options if "selected" in o.attributes] or options[:1]
                sent[name] = chosen[-1].attributes["value"] if chosen else ""
            elif each.tag == "input" and each.attributes.get("type") == "checkbox":
                if "checked" in each.attributes:
                    others = sent.setdefault(name, [])
                    assert isinstance(others, list)
                    others.append(value)
            elif each.tag == "input":
                before = sent.get(name)
                listed = before if isinstance(before, list) else [before] if before else []
                sent[name] = [*listed, value] if listed else value
        return sent


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Node("")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read_html(text: str) -> Node:
    """Parse a page or a part of one. Elements must be closed in order."""
    reader = _Reader()
    reader.feed(text)
    assert len(reader.open) == 1, f"<{reader.open[-1].tag}> is not closed"
    return reader.open[0]
