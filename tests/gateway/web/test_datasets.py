"""The pages of datasets: each state in its words, what they show of the text, and every refusal."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from domain.aggregate import because
from domain.base_model import BaseModel
from domain.dataset import Dataset
from domain.identity import base_model_id
from domain.token_lengths import TokenLengths
from gateway.dataset_preview import CHARACTERS_SHOWN
from gateway.freshness import caught_up
from infrastructure.artifacts import Artifacts
from infrastructure.chat_labels import IGNORED
from infrastructure.measurements import set_progress
from infrastructure.profiles import set_dataset_name
from infrastructure.store import connect
from projections import PROJECTIONS
from services.datasets.validation import validate
from services.trainer.examples import Renderer
from services.trainer.tiny_model import CHAT_TEMPLATE, TINY_SHAPE, make_tiny_tokenizer
from tests.gateway.conftest import BASE_MODEL, World
from tests.gateway.web.signed_in import Browser

CONTEXT = 64

USER = {"role": "user", "content": "Where is my <order>?"}
ASSISTANT = {"role": "assistant", "content": "On its way & near."}
CHAT = {"messages": [{"role": "system", "content": "Be brief."}, USER, ASSISTANT]}


@pytest.fixture
def base(world: World, tmp_path: Path) -> BaseModel:
    """A base with a tokenizer in the store."""
    return import_base(world, tmp_path / "tiny")


def import_base(
    world: World,
    directory: Path,
    template: str = CHAT_TEMPLATE,
    name: str = BASE_MODEL,
    context: int = CONTEXT,
) -> BaseModel:
    make_tiny_tokenizer(template).save_pretrained(directory)
    ref = f"models/{name}"
    manifest = Artifacts(world.settings.artifacts).put_directory(ref, directory)
    with because(world.cause):
        world.ecolink.import_base_model(
            name, ref, manifest.sha256, "LlamaForCausalLM", 1000, context, TINY_SHAPE
        )
    return world.log.load(BaseModel, base_model_id(name))


@pytest.fixture
def upload(browser: Browser, world: World) -> Callable[..., UUID]:
    """Makes a dataset of lines, as the datasets service does; `validated` or still to be."""

    def made(*lines: Any, name: str = "chats", validated: bool = True) -> UUID:
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        content = "".join(text + "\n" for text in texts).encode()
        dataset_id, artifacts = uuid4(), Artifacts(world.settings.artifacts)
        with because(world.cause):
            dataset = Dataset.uploaded(
                dataset_id, browser.person.account_id, "uploads/x", "00", len(content)
            )
            if validated:
                home, kept = f"datasets/{dataset_id}", bytearray()
                report = validate([content], kept.extend, on_progress=id, max_bytes=10**9)
                artifacts.put(f"{home}/report.json", report.model_dump_json().encode())
                if report.sha256 is None:
                    dataset.reject(report.error_count, f"{home}/report.json")
                else:
                    artifacts.put(f"{home}/examples.jsonl", bytes(kept))
                    dataset.validate(
                        f"{home}/examples.jsonl",
                        report.sha256,
                        report.examples,
                        report.duplicates,
                        f"{home}/report.json",
                    )
            world.log.commit(dataset)
        with connect(world.settings) as connection:
            set_dataset_name(connection, dataset_id, name)
        return dataset_id

    return made


def count(world: World, dataset_id: UUID, base: BaseModel, *lengths: int) -> None:
    with because(world.cause):
        dataset = world.log.load(Dataset, dataset_id)
        dataset.record_tokens(base.name, base.manifest_sha256, TokenLengths.of(lengths))
        world.log.commit(dataset)


def settle(browser: Browser) -> None:
    """Wait until the read models hold all that was written."""
    assert caught_up(browser.client.app.state.backend, *PROJECTIONS)  # type: ignore[attr-defined]


def words(html: str) -> str:
    """What is read of a page, with single spaces."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def learnt(html: str) -> list[str]:
    """The highlighted texts of the examples, without that of the legend."""
    marks = re.findall(r'<mark class="learnt">(.*?)</mark>', html, flags=re.DOTALL)
    return [unescape(mark) for mark in marks[1:]]


def opened(browser: Browser, path: str, *, part: bool = False) -> str:
    answer = browser.client.get(path, headers=browser.htmx if part else {})
    assert answer.status_code == 200
    return answer.text


def test_without_datasets_the_format_is_shown(browser: Browser) -> None:
    shown = words(opened(browser, "/datasets"))
    assert "No datasets yet" in shown
    assert '{"messages": [{"role": "system"' in shown
    assert "Choose files" in shown


def test_the_example_line_is_a_valid_dataset(browser: Browser) -> None:
    html = opened(browser, "/datasets")
    line = unescape(html.partition('<pre class="format"')[2].partition(">")[2].partition("</")[0])
    report = validate([line.encode()], len, on_progress=id, max_bytes=10**6)
    assert (report.errors, report.warnings, report.examples) == ((), (), 1)


def test_each_state_is_told_in_the_document_s_words(
    browser: Browser, upload: Callable[..., UUID], world: World, base: BaseModel
) -> None:
    ready = upload(CHAT, name="ready one")
    upload("no json", CHAT, name="bad one")
    waiting = upload(CHAT, name="new one", validated=False)
    with connect(world.settings) as connection:
        set_progress(connection, waiting, 1234, 50, 100)
    settle(browser)
    html = opened(browser, "/datasets")
    shown = words(html)
    assert "new one validating 1,234 lines, 50 B of" in shown
    assert "bad one rejected 1 error" in shown
    assert "ready one ready to train 1 counting…" in shown
    assert html.count("Train<span") == 1
    assert f'href="/fine-tune/new?dataset={ready}"' in html
    count(world, ready, base, 40)
    settle(browser)
    assert "ready one ready to train 1 40" in words(opened(browser, "/datasets"))


def test_the_list_is_asked_for_again_only_while_something_moves(
    browser: Browser, upload: Callable[..., UUID], world: World, base: BaseModel
) -> None:
    def polls() -> bool:
        settle(browser)
        return "every 1500ms" in opened(browser, "/datasets", part=True)

    assert not polls()
    upload("no json")
    assert not polls()
    upload(CHAT, validated=False)
    assert polls()


def test_a_part_of_the_list_is_no_whole_page(browser: Browser) -> None:
    assert opened(browser, "/datasets", part=True).lstrip().startswith('<section id="datasets"')


def test_a_long_list_has_pages(
    browser: Browser, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.web.datasets.LISTED", 2)
    for _ in range(3):
        world.dataset(browser.person)
    settle(browser)
    newest, second, oldest = (
        each["id"] for each in browser.client.get("/api/datasets").json()["data"]
    )
    html = opened(browser, "/datasets")
    assert f"/datasets?after={second}" in html
    older = opened(browser, f"/datasets?after={second}")
    assert (oldest in older, newest in older) == (True, False)
    assert "Newest" in older


def test_another_account_s_dataset_is_not_there(
    browser: Browser, world: World, upload: Callable[..., UUID]
) -> None:
    theirs = world.dataset(world.person())
    settle(browser)
    for path in (f"/datasets/{theirs}", f"/datasets/{theirs}/examples"):
        assert browser.client.get(path).status_code == 404
    answer = browser.client.post(f"/datasets/{theirs}/delete", headers=browser.htmx)
    assert f"No dataset {theirs}" in answer.text


def test_a_validation_is_followed_until_it_is_over(
    browser: Browser, upload: Callable[..., UUID], world: World
) -> None:
    dataset_id = upload(CHAT, validated=False)
    settle(browser)
    shown = opened(browser, f"/datasets/{dataset_id}", part=True)
    assert "every 1s" in shown
    assert "Every line is being checked" in words(shown)
    with connect(world.settings) as connection:
        set_progress(connection, dataset_id, 7, 2_500_000, 5_000_000)
    assert "7 lines, 2.5 MB of" in words(opened(browser, f"/datasets/{dataset_id}", part=True))


def test_a_rejected_dataset_opens_to_its_lines(
    browser: Browser, upload: Callable[..., UUID], world: World
) -> None:
    dataset_id = upload(
        CHAT,
        '{"messages": [{"role": "user", "content": "It said "<b>hi</b>""}]}',
        {"messages": [USER, {"role": "bot", "content": "x" * 500}]},
        "",
        {**CHAT, "id": 1},
    )
    settle(browser)
    html = opened(browser, f"/datasets/{dataset_id}")
    shown = words(html)
    assert "2 of 5 lines cannot be trained on." in shown
    assert "Line 2 The JSON is malformed at column 5" in shown
    assert '&#34;It said &#34;<mark class="wrong">&lt;</mark>b&gt;hi' in html
    assert "<b>hi</b>" not in html
    assert '<mark class="wrong">{&#34;role&#34;: &#34;bot&#34;' in html
    assert "1 blank line was skipped." in shown
    assert "every 1s" not in html
    assert "Train</a>" not in html


def test_errors_beyond_those_that_are_kept_are_counted(
    browser: Browser, upload: Callable[..., UUID], world: World
) -> None:
    dataset_id = upload(*["no json"] * 103)
    settle(browser)
    assert "And 3 more lines with errors." in words(opened(browser, f"/datasets/{dataset_id}"))


def test_a_file_that_is_no_dataset_at_all_is_told_so(
    browser: Browser, upload: Callable[..., UUID], world: World
) -> None:
    dataset_id = upload("PK\x03\x04")
    settle(browser)
    shown = words(opened(browser, f"/datasets/{dataset_id}"))
    assert "Nothing can be trained on this file." in shown
    assert "The whole file The file is not JSONL in UTF-8: it seems to be a zip archive" in shown


def test_a_ready_dataset_shows_its_facts(
    browser: Browser, upload: Callable[..., UUID], world: World, base: BaseModel
) -> None:
    dataset_id = upload(CHAT, CHAT, {"messages": [USER, ASSISTANT]})
    settle(browser)
    path = f"/datasets/{dataset_id}"
    html = opened(browser, path)
    shown = words(html)
    assert "Examples 2" in shown
    assert "Repeated lines left out 1" in shown
    assert "tiny still being counted…" in shown
    assert "every 1s" in html
    count(world, dataset_id, base, 40, 70)
    settle(browser)
    html = opened(browser, path)
    assert "tiny 110 70 is cut 64" in words(html)
    assert "every 1s" not in html
    assert f'href="/fine-tune/new?dataset={dataset_id}"' in html


def test_a_base_whose_template_refuses_the_dataset_says_so(
    browser: Browser, upload: Callable[..., UUID], world: World, base: BaseModel
) -> None:
    dataset_id = upload(CHAT)
    with because(world.cause):
        dataset = world.log.load(Dataset, dataset_id)
        dataset.refuse_tokens(base.name, base.manifest_sha256, 1)
        world.log.commit(dataset)
    settle(browser)
    shown = words(opened(browser, f"/datasets/{dataset_id}"))
    assert "tiny cannot train on it: its chat template refuses example 1" in shown


def test_what_is_highlighted_is_what_the_trainer_learns(
    browser: Browser, upload: Callable[..., UUID], world: World, base: BaseModel
) -> None:
    long = {**ASSISTANT, "content": "word é " * 40}
    chats = [
        CHAT,
        {"messages": [USER, {**ASSISTANT, "weight": 0}, USER, ASSISTANT]},
        {"messages": [USER, ASSISTANT, USER, long]},
    ]
    dataset_id = upload(*chats)
    settle(browser)
    html = opened(browser, f"/datasets/{dataset_id}/examples?base_model={base.name}", part=True)
    tokenizer = make_tiny_tokenizer()
    renderer = Renderer(tokenizer, CONTEXT)
    expected, counts = [], []
    for chat in chats:
        (example,) = renderer.render(chat)
        kept = example.truncated(CONTEXT)
        labels = [label for label in kept.labels if label != IGNORED]
        expected.append(tokenizer.decode(labels))
        counts.append(f"{len(example.input_ids)} tokens, {kept.label_tokens} learnt")
    assert "".join(learnt(html)) == "".join(expected)
    shown = words(html)
    for each in counts:
        assert each in shown
    assert "beyond the context cut off" in shown
    assert re.findall(r'class="turn is-(\w+)"', html)[:3] == ["system", "user", "assistant"]
    whole = "".join(unescape(re.sub(r"<[^>]+>", "", turn)) for turn in _turns(html))
    texts = [tokenizer.apply_chat_template(_without_weight(chat), tokenize=False) for chat in chats]
    assert whole == "".join(map(str, texts))


def _turns(html: str) -> list[str]:
    return re.findall(r"<pre>\n(.*?)</pre>", html, flags=re.DOTALL)


def _without_weight(chat: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in each.items() if k != "weight"} for each in chat["messages"]]


def test_an_example_of_which_nothing_is_left_to_learn_is_told(
    browser: Browser, upload: Callable[..., UUID], world: World, base: BaseModel
) -> None:
    dataset_id = upload({"messages": [{**USER, "content": "long " * 80}, ASSISTANT]})
    settle(browser)
    shown = words(opened(browser, f"/datasets/{dataset_id}/examples"))
    assert "Nothing is left to learn, so that training leaves it out." in shown


def test_a_template_that_rewrites_history_shows_each_answer_on_its_own(
    browser: Browser, upload: Callable[..., UUID], world: World, tmp_path: Path
) -> None:
    rewriting = CHAT_TEMPLATE.replace(
        "{{ message.content }}",
        "{{ message.content if loop.last or message.role != 'assistant' else 'gone' }}",
    )
    import_base(world, tmp_path / "rewriting", rewriting, context=500)
    dataset_id = upload({"messages": [USER, ASSISTANT, USER, ASSISTANT]})
    settle(browser)
    html = opened(browser, f"/datasets/{dataset_id}/examples")
    assert "each answer is trained on its own" in words(html)
    assert learnt(html) == [f"{ASSISTANT['content']}<|im_end|>"] * 2


def test_a_template_that_refuses_an_example_says_why(
    browser: Browser, upload: Callable[..., UUID], world: World, tmp_path: Path
) -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    import_base(world, tmp_path / "refusing", refusing + CHAT_TEMPLATE)
    dataset_id = upload(CHAT, {"messages": [USER, ASSISTANT]})
    settle(browser)
    shown = words(opened(browser, f"/datasets/{dataset_id}/examples"))
    assert "training leaves it out: the base model's chat template refuses it: no system" in shown
    assert "Example 2" in shown


def test_examples_have_pages_and_a_base_can_be_chosen(
    browser: Browser, upload: Callable[..., UUID], world: World, base: BaseModel, tmp_path: Path
) -> None:
    import_base(world, tmp_path / "other", "{{ 'Chat: ' }}" + CHAT_TEMPLATE, "other")
    asked = [{"messages": [{**USER, "content": f"Number {n}?"}, ASSISTANT]} for n in range(12)]
    dataset_id = upload(*asked)
    count(world, dataset_id, base, *[30] * 12)
    settle(browser)
    path = f"/datasets/{dataset_id}/examples"
    first = opened(browser, path)
    assert "1 to 5 of 12" in words(first)
    assert "Number 4?" in first
    assert "Number 5?" not in first
    assert 'id="previous-examples" class="secondary small" aria-disabled="true"' in first
    last = opened(browser, f"{path}?first=11&base_model=other")
    assert "11 to 12 of 12" in words(last)
    assert "Chat: &lt;|im_start|&gt;user" in last
    assert "Number 11?" in last
    assert "histogram" not in last
    assert 'id="next-examples" class="secondary small" aria-disabled="true"' in last
    assert "Half of the examples have at most 30 tokens" in words(first)
    assert "All fit into the base's context of 64." in words(first)
    assert "12 of 12" in words(opened(browser, f"{path}?first=99999"))
    assert browser.client.get(f"{path}?first=0").status_code == 422


def test_a_very_long_example_is_shown_from_its_beginning(
    browser: Browser, upload: Callable[..., UUID], world: World, base: BaseModel
) -> None:
    dataset_id = upload({"messages": [USER, {**ASSISTANT, "content": "x" * 3 * CHARACTERS_SHOWN}]})
    settle(browser)
    html = opened(browser, f"/datasets/{dataset_id}/examples")
    assert "characters more." in words(html)
    assert len(html) < 2 * CHARACTERS_SHOWN


def test_a_dataset_is_deleted_after_a_question(
    browser: Browser, upload: Callable[..., UUID], world: World
) -> None:
    dataset_id = upload(CHAT)
    settle(browser)
    path = f"/datasets/{dataset_id}"
    asked = words(opened(browser, path))
    assert "The file with its 1 example, and the report" in asked
    assert "Models that were trained on it stay" in asked
    assert browser.client.post(f"{path}/delete").status_code == 403
    answer = browser.client.post(f"{path}/delete", headers=browser.htmx)
    assert (answer.status_code, answer.headers["hx-redirect"]) == (200, "/datasets")
    assert browser.client.get(path).status_code == 404


def test_a_dataset_that_a_job_needs_is_not_deleted(browser: Browser, world: World) -> None:
    world.base_model()
    dataset_id = world.dataset(browser.person)
    job = {"dataset": str(dataset_id), "base_model": BASE_MODEL}
    approved = browser.client.post("/api/jobs", json=job, headers=browser.htmx)
    assert approved.status_code in (201, 202)
    answer = browser.client.post(f"/datasets/{dataset_id}/delete", headers=browser.htmx)
    assert "1 of your jobs train on it and are not over" in words(answer.text)
    assert answer.headers["hx-retarget"] == "#notices"


def test_the_limit_and_the_path_of_uploads_are_known_to_the_script(
    browser: Browser, world: World
) -> None:
    html = opened(browser, "/datasets")
    assert f'data-limit="{world.settings.dataset_max_bytes}"' in html
    assert 'data-path="/api/datasets"' in html


def test_nothing_of_a_dataset_is_in_its_events(
    browser: Browser, upload: Callable[..., UUID], world: World
) -> None:
    upload('{"messages": "a secret that is wrong"}')
    notifications = world.log.recorder.select_notifications(start=1, limit=1000)
    assert all(b"secret" not in bytes(each.state) for each in notifications)


def test_how_many_examples_are_cut_is_told(
    browser: Browser, upload: Callable[..., UUID], world: World, base: BaseModel
) -> None:
    dataset_id = upload(CHAT, {"messages": [USER, ASSISTANT]})
    count(world, dataset_id, base, 40, CONTEXT + 30)
    settle(browser)
    html = opened(browser, f"/datasets/{dataset_id}/examples")
    assert "context has 64: one example is longer, and cut off there." in words(html)
    assert html.count('class="beyond"') == 1
