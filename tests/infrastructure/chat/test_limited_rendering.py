"""Rendering of templates with limits."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from infrastructure.chat import limited_rendering
from infrastructure.chat.limited_rendering import LimitedTemplate, RenderingLimitExceeded
from infrastructure.chat.template_rendering import ChatRefused, ChatTemplate

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{{ tools | tojson }}{{ strftime_now('%Y-%m-%d') }}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
BOMBS = {
    "loop": LOOP,
    "long number": "{{ (messages | length + 8) ** ((messages | length + 8) ** 9) }}",
    "long text": "{{ messages[0].content * 9999999999 }}",
    "padding": "{{ messages[0].content | center(9999999999) }}",
    "doubling": (
        "{% set ns = namespace(s='aa') %}{% for _ in range(60) %}{% set ns.s = ns.s ~ ns.s %}"
        "{% endfor %}{{ ns.s }}"
    ),
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
}


def user(content: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start each test without processes."""
    limited_rendering._close()


def test_the_output_equals_the_templates() -> None:
    tokens, today = {"bos_token": "<s>"}, date(2026, 1, 2)
    tools = [{"type": "function", "function": {"name": "né", "parameters": {}}}]
    for template in (TEMPLATE, "{{ messages[-1].content }}\n\n"):
        for prompt in (False, True):
            expected = ChatTemplate(template, tokens, today).render(
                user("Hello\n🙂 "), tools, prompt=prompt
            )
            limited = LimitedTemplate(template, tokens, today)
            assert limited.render(user("Hello\n🙂 "), tools, prompt=prompt) == expected


@pytest.mark.full
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_costly_message_fails_only_itself(bomb: str) -> None:
    template = LimitedTemplate(
        "{% if 'boom' in messages[0].content %}" + BOMBS[bomb] + "{% endif %}"
        "{{ messages[0].content }}",
        {},
    )
    assert template.render(user("hi")) == "hi"
    with pytest.raises(ChatRefused):
        template.render(user("boom"))
    assert template.render(user("hi")) == "hi"


@pytest.mark.full
def test_a_looping_template_does_not_block_others() -> None:
    looping, quick = LimitedTemplate(LOOP, {}), LimitedTemplate(TEMPLATE, {})
    with ThreadPoolExecutor() as threads:
        rendering = [threads.submit(looping.render, user("hi")) for _ in range(2)]
        assert quick.render(user("hi")).startswith("user: hi")
        for each in rendering:
            with pytest.raises(RenderingLimitExceeded):
                each.result()


def test_invalid_and_refusing_templates_raise_chat_refused() -> None:
    with pytest.raises(ChatRefused):
        LimitedTemplate("{% for message in %}", {}).render(user("hi"))
    with pytest.raises(ChatRefused, match="roles must alternate"):
        LimitedTemplate("{{ raise_exception('roles must alternate') }}", {}).render(user("hi"))


def test_a_long_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    template = LimitedTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", {})
    long = user("x" * (limited_rendering.MAX_CHARACTERS // 4 + 1)) * 4
    with pytest.raises(ChatRefused):
        template.render(long)


def test_the_process_has_no_secret_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECOLINK_DATABASE_URL", "postgresql://secret")
    LimitedTemplate(TEMPLATE, {}).render(user("hi"))
    (process,) = limited_rendering._idle
    environment = Path(f"/proc/{process._process.pid}/environ").read_bytes()
    names = {each.partition(b"=")[0].decode() for each in environment.split(b"\0")}
    assert "ECOLINK_DATABASE_URL" in os.environ
    assert not any(name.startswith("ECOLINK") for name in names)


def test_a_killed_idle_process_is_replaced() -> None:
    template = LimitedTemplate("{{ messages[0].content }}", {})
    assert template.render(user("hi")) == "hi"
    (process,) = limited_rendering._idle
    process._process.kill()
    process._process.wait()
    assert template.render(user("ho")) == "ho"
