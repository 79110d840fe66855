"""Schemas, templates and URLs of users read no file, send no request, and end within limits.

A server on the loopback interface records each request, and a file contains a secret. Each place
that accepts such content gets each attack.
"""

from __future__ import annotations

import ast
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from domain.core.errors import Invalid
from domain.core.target import TargetPolicy
from gateway.chat.schemas import ChatRequest
from infrastructure.chat.json_schema import InvalidSchema, require_schema, validator_of
from infrastructure.chat.limited_rendering import LimitedTemplate
from infrastructure.chat.template_rendering import ChatRefused
from services.serving import grammar, grammar_worker
from services.serving.grammar import Grammars, UnusableSchema
from tests.extension_modules import extension_modules
from tests.services.datasets.uploads import CALL, CALLING, GOOD, chat, jsonl, validated
from tests.test_layout import PACKAGES, ROOT

SECRET = "canary-9f2c71"
HELLO = [{"role": "user", "content": "Hello!"}]
DRAFT_2019 = "https://json-schema.org/draft/2019-09/schema"


@dataclass
class Bait:
    """A file with a secret, and a server that answers with it and records its requests."""

    url: str
    file: Path
    requests: list[str] = field(default_factory=list)

    @property
    def targets(self) -> dict[str, str]:
        """URLs that lead to the secret."""
        return {
            "file": self.file.as_uri(),
            "path": str(self.file),
            "http": f"{self.url}/secret.json",
            "redirect": f"{self.url}/redirect",
        }


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bait]:
    file = tmp_path_factory.mktemp("bait") / "secrets.json"
    file.write_text(json.dumps(SECRET))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            bait.requests.append(self.path)
            self.send_response(302 if self.path == "/redirect" else 200)
            self.send_header("location", file.as_uri())
            self.end_headers()
            self.wfile.write(file.read_bytes())

        do_POST = do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    bait = Bait(f"http://127.0.0.1:{server.server_port}", file)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield bait
    server.shutdown()
    server.server_close()


@pytest.fixture
def bait(listening: Bait) -> Bait:
    listening.requests.clear()
    return listening


def inner(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": {"items": schema}}}


SCHEMAS: dict[str, Callable[[str], dict[str, Any]]] = {
    "$schema": lambda url: {"$schema": url},
    "$schema of a draft, with a host": lambda url: {"$schema": f"{DRAFT_2019}@{url}"},
    "inner $schema": lambda url: inner({"$id": "https://example.com/a", "$schema": url}),
    "inner $schema without $id": lambda url: inner({"$schema": url, "type": "string"}),
    "$schema in definitions": lambda url: {"$defs": {"a": {"$schema": url}}, "$ref": "#/$defs/a"},
    "$schema in draft 4": lambda url: {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "definitions": {"a": {"id": url, "$schema": url}},
    },
    "$ref": lambda url: {"$ref": url},
    "$ref with a fragment": lambda url: {"$ref": f"{url}#/a"},
    "inner $ref": lambda url: inner({"$ref": url}),
    "$ref from $id": lambda url: {"$id": url, "$ref": "other.json"},
    "$dynamicRef": lambda url: inner({"$dynamicRef": url}),
    "$recursiveRef": lambda url: {"$schema": DRAFT_2019, "$recursiveRef": url},
    "$vocabulary": lambda url: {"$id": "https://example.com/a", "$vocabulary": {url: True}},
    "$id": lambda url: {"$id": url, "$schema": url},
    "$ref in allOf": lambda url: {"allOf": [{"$ref": url}, {"if": {"$ref": url}}]},
    "$ref in contentSchema": lambda url: {"contentSchema": {"$ref": url}},
}


def in_chat(**options: Any) -> object:
    form = ChatRequest.model_validate({"model": "m", "messages": HELLO, **options})
    return form.asked(uuid4(), uuid4())


def in_response_format(schema: dict[str, Any]) -> object:
    return in_chat(
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    )


def in_tools_of_chat(schema: dict[str, Any]) -> object:
    return in_chat(tools=[{"type": "function", "function": {"name": "f", "parameters": schema}}])


def in_tools_of_dataset(schema: dict[str, Any]) -> object:
    function = {"name": CALL["function"]["name"], "parameters": schema}  # type: ignore[index]
    example = chat(GOOD["messages"][0], CALLING)
    return [
        validated(jsonl({**example, "tools": [{"type": "function", "function": function}]}))[0],
        validated(jsonl({**example, "functions": [function]}))[0],
    ]


def in_grammar(schema: dict[str, Any]) -> object:
    return Grammars(TOKENIZER, 256, [0]).of(schema)


PLACES: dict[str, Callable[[dict[str, Any]], object]] = {
    "response_format": in_response_format,
    "tools of a chat": in_tools_of_chat,
    "tools of a dataset": in_tools_of_dataset,
    "grammar": in_grammar,
    "validator": validator_of,
}


class _Bytes:
    """A tokenizer with one token for each byte."""


TOKENIZER: Any = _Bytes()


@pytest.fixture(autouse=True)
def tokenizer_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    import llguidance.hf

    def prepare(*_: object, **__: object) -> llguidance.LLTokenizer:
        return llguidance.LLTokenizer("byte")

    monkeypatch.setattr(llguidance.hf, "from_tokenizer", prepare)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("attack", SCHEMAS)
def test_a_schema_fetches_nothing(
    bait: Bait, attack: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar, "run", lambda _, request, __: grammar_worker.compiled(request, 0))
    for target in bait.targets.values():
        try:
            outcome: object = PLACES[place](SCHEMAS[attack](target))
        except (Invalid, InvalidSchema, UnusableSchema) as refused:
            outcome = refused
        assert SECRET not in f"{outcome!r} {outcome}"
    assert bait.requests == []


@pytest.mark.parametrize("device", ["file:///dev/ptmx", "file:///dev/zero", "file:///dev/stdin"])
@pytest.mark.parametrize("attack", ["$schema", "inner $schema", "$schema in draft 4"])
def test_a_schema_of_another_draft_is_refused(attack: str, device: str) -> None:
    with pytest.raises(InvalidSchema):
        require_schema(SCHEMAS[attack](device))


@pytest.mark.parametrize(
    "schema",
    [
        {},
        True,
        {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{}]},
        {
            "$schema": "http://json-schema.org/draft-04/schema",
            "exclusiveMinimum": True,
            "minimum": 1,
        },
        {"$schema": f"{DRAFT_2019}#"},
        {"properties": {"$schema": {"type": "string"}}},
        {"$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"},
        {"$id": "https://example.com/a", "$defs": {"b": {"$id": "b"}}, "$ref": "b"},
    ],
)
def test_a_schema_of_an_official_draft_is_usable(schema: Any) -> None:
    validator_of(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"$schema": 5},
        {"$schema": ["https://json-schema.org/draft/2020-12/schema"]},
        {"type": "strings"},
        {"properties": {"\ud800": {}}},
        {"maximum": float("nan")},
        {"enum": ["x" * 70_000]},
        {"pattern": "("},
        {"pattern": "(((a{1,100}){1,100}){1,100}){1,100}"},
        json.loads('{"items": ' * 40 + "{}" + "}" * 40),
        json.loads('{"items": ' * 900 + "{}" + "}" * 900),
        "text",
        None,
    ],
    ids=lambda each: repr(each)[:30],
)
def test_an_invalid_schema_is_refused(schema: Any) -> None:
    with pytest.raises(InvalidSchema):
        validator_of(schema)


GROWING = {"allOf": [{"type": "string", "pattern": f"a.{{{n}}}b"} for n in range(1, 40)]}
DOUBLING: Any = {
    "$defs": {
        "a0": {"type": "string"},
        **{f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n - 1}"}] * 2} for n in range(1, 60)},
    },
    "$ref": "#/$defs/a59",
}


@pytest.mark.full
def test_a_grammar_whose_patterns_multiply_is_refused() -> None:
    """The library's limits do not end its compilation, and its memory doubles with each pattern."""
    with pytest.raises(UnusableSchema):
        in_grammar(GROWING)


@pytest.mark.parametrize("place", ["response_format", "tools of a chat"])
def test_the_gateway_neither_compiles_patterns_nor_follows_references(place: str) -> None:
    for schema in (GROWING, DOUBLING, {"pattern": "((((\\w{1,9}){1,9}){1,9}){1,9}){1,9}"}):
        PLACES[place](schema)


TEMPLATES = (
    "{{% include '{file}' %}}",
    "{{% import '{file}' as a %}}{{{{ a }}}}",
    "{{% extends '{file}' %}}",
    "{{{{ cycler.__init__.__globals__.os.popen('cat {file}').read() }}}}",
    "{{{{ ''.__class__.__mro__[1].__subclasses__() }}}}{{{{ open('{file}').read() }}}}",
    "{{{{ lipsum.__globals__['os'].environ }}}}",
    "{{{{ raise_exception.__globals__ }}}}{{{{ strftime_now.__globals__ }}}}",
    "{{{{ '{{0.__class__.__init__.__globals__}}'.format(raise_exception) }}}}",
    "{{{{ ('%s' | format(raise_exception)).__class__ }}}}{{{{ self.__init__ }}}}",
)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_reads_no_file_and_no_variable(bait: Bait, template: str) -> None:
    os.environ["ECOLINK_BAIT"] = SECRET
    try:
        outcome = LimitedTemplate(template.format(file=bait.file), {}).render(HELLO)
    except ChatRefused as refused:
        outcome = str(refused)
    finally:
        del os.environ["ECOLINK_BAIT"]
    assert SECRET not in outcome
    assert "<module" not in outcome


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "gopher://example.com/",
        "https://127.0.0.1:8080/",
        "https://[::1]:8080/",
        "https://[::ffff:127.0.0.1]:8080/",
        "https://169.254.169.254/latest/meta-data/",
        "https://10.0.0.1/",
        "https://user:password@example.com/",
        "https://example.com/#a",
        "http://example.com/",
        "https://example.com:22/",
        "https://example.com\r\nHost: a/",
    ],
)
def test_a_url_that_leaves_the_public_web_is_refused(url: str) -> None:
    with pytest.raises(Invalid):
        TargetPolicy().require_url(url)


IMPORTERS: dict[str, set[str]] = {
    "jsonschema_rs": {"infrastructure/chat/json_schema.py"},
    "llguidance": {"services/serving/grammar.py", "services/serving/grammar_worker.py"},
    "jinja2": {
        "gateway/reference/page.py",
        "gateway/web/rendering.py",
        "infrastructure/chat/template_rendering.py",
        "services/trainer/failures.py",
    },
    "httpx": {
        "gateway/chat/serving.py",
        "gateway/cli/client.py",
        "infrastructure/http/guarded.py",
        "infrastructure/http/retry_after.py",
        "infrastructure/artifacts/s3_requests.py",
        "infrastructure/seals/timestamps.py",
        "services/sealer/app.py",
    },
    "huggingface_hub": {
        "gateway/datasets/hub_worker.py",
        "services/model_import/importer.py",
    },
    "zipfile": {
        "gateway/http/downloads.py",
        "services/datasets/unpacking.py",
    },
    "yaml": {
        "infrastructure/training/bus_document.py",
        "services/scheduler/model_card.py",
    },
    "xml": {
        "infrastructure/artifacts/s3_bucket.py",
        "infrastructure/artifacts/s3_requests.py",
        "infrastructure/training/store_credentials.py",
    },
}
"""The modules that may use a library which opens what a document names.

Before you add a module, add its attacks above, or check that it gets no content of users. An
extension adds IMPORTERS of its own in its test module `importers`.
"""
for module in extension_modules("importers"):
    for library, files in module.IMPORTERS.items():
        IMPORTERS[library] |= files

FORBIDDEN = {
    *("jsonschema", "pickle", "marshal", "shelve", "dill", "cloudpickle", "tarfile", "requests"),
    *("aiohttp", "urllib.request", "lxml"),
}


@pytest.fixture(scope="module")
def product() -> list[tuple[str, ast.AST]]:
    """The imports, calls and keyword arguments of the product, with the path of their file."""
    return [
        (str(path.relative_to(ROOT)), node)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if "node_modules" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.Call, ast.keyword))
    ]


def test_only_known_modules_use_a_library_that_opens_what_a_document_names(
    product: list[tuple[str, ast.AST]],
) -> None:
    found: dict[str, set[str]] = {}
    for path, node in product:
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
        for name in names:
            for known in (name.partition(".")[0], name):
                found.setdefault(known, set()).add(path)
    assert {library: found.get(library) for library in IMPORTERS} == IMPORTERS
    assert FORBIDDEN.isdisjoint(found)


def test_no_module_runs_or_unpickles_code_of_a_document(
    product: list[tuple[str, ast.AST]],
) -> None:
    calls = {"eval", "exec", "torch.load", "yaml.load", "unsafe_load", "yaml.full_load"}
    for path, node in product:
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in calls, path
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            assert ast.unparse(node.value) == "False", path
