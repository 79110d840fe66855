"""The list of jobs: states, filters, pages and polling."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

from domain.core.aggregate import because
from domain.jobs.job import Job
from domain.jobs.lifecycle import PauseReason
from gateway.jobs.states import PAUSED
from infrastructure.accounts.profiles import set_dataset_name
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.builders.platform import Platform
from tests.gateway.web.signed_in import Browser, signed_in

CPU = "1\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}CPU (this machine)"


def approved(browser: Browser, platform: Platform, *suffixes: str | None) -> list[UUID]:
    """Approve a job for each suffix. All are queued."""
    platform.base_model()
    dataset = str(platform.dataset(browser.person))
    jobs: list[UUID] = []
    for suffix in suffixes:
        body = {"dataset": dataset, "base_model": "tiny", "suffix": suffix, "wait": True}
        job = browser.client.post("/api/jobs", json=body, headers=browser.htmx).json()
        jobs.append(UUID(job["id"].removeprefix("ftjob-")))
    return jobs


def command(browser: Browser, job_id: UUID, name: str) -> None:
    answer = browser.client.post(f"/api/jobs/{job_id}/{name}", headers=browser.htmx)
    assert answer.status_code == 200


def titles(html: str) -> list[str]:
    return re.findall(r'id="open-\w+">([^<]+)<', html)


def now(browser: Browser, page: str) -> Any:
    """Return the answer to a poll of the page."""
    found = re.search(r'hx-get="(/fine-tune/now[^"]+)" hx-trigger="every (?:3s|15s)"', page)
    assert found is not None
    return browser.client.get(found[1].replace("&amp;", "&"), headers=browser.htmx)


def compared(browser: Browser, *jobs: UUID | str) -> Any:
    chosen = {"jobs": [str(job) for job in jobs]}
    return browser.client.get("/fine-tune/compare", params=chosen)


def test_an_empty_page_leads_to_the_first_job_and_shows_it(
    browser: Browser, platform: Platform
) -> None:
    page = browser.client.get("/fine-tune").text
    assert 'hx-post="/datasets/from-sample"' in page
    assert now(browser, page).status_code == 204
    approved(browser, platform, "first")
    assert now(browser, page).headers["hx-refresh"] == "true"


def test_a_row_shows_the_job_and_its_state(
    browser: Browser, platform: Platform, settings: Settings
) -> None:
    job_id, unnamed = approved(browser, platform, "support", None)
    with connect(settings) as connection:
        job = browser.client.get(f"/api/jobs/{job_id}").json()
        set_dataset_name(connection, UUID(job["dataset_id"]), "chats <1>")
    page = browser.client.get("/fine-tune").text
    assert titles(page) == [unnamed.hex[:8], "support"]
    assert f"chats &lt;1&gt; · {job_id.hex[:8]}" in page
    assert '<span class="badge is-calm is-live">waiting for a GPU</span>' in page
    assert f"tiny<small>{CPU}</small>" in page
    assert f'href="/fine-tune/new?like=ftjob-{job_id.hex}"' in page
    assert f'href="/fine-tune/ftjob-{job_id.hex}"' in page


def test_states_have_labels_and_filters(browser: Browser, platform: Platform) -> None:
    waits, mine, empty, over = approved(browser, platform, "waits", "mine", "empty", "over")
    command(browser, mine, "pause")
    command(browser, over, "cancel")
    with because(platform.cause):
        job = platform.log.load(Job, empty)
        job.deplete()
        platform.log.commit(job)
    platform.project()
    page = browser.client.get("/fine-tune").text
    assert titles(page) == ["over", "empty", "mine", "waits"]
    paused = [PAUSED[reason].badge for reason in (PauseReason.OWNER, PauseReason.BALANCE)]
    for badge in (*paused, "cancelled"):
        assert f">{badge}</span>" in page
    for group, expected in {
        "running": ["waits"],
        "paused": ["empty", "mine"],
        "cancelled": ["over"],
        "failed": [],
        "": ["over", "empty", "mine", "waits"],
    }.items():
        filtered = browser.client.get("/fine-tune", params={"status": group}).text
        assert titles(filtered) == expected
    assert browser.client.get("/fine-tune?status=x").status_code == 422
    listed = browser.client.get("/api/jobs?status=paused&status=cancelled").json()["data"]
    assert [job["pause_reason"] for job in listed] == [None, "balance", "owner"]
    assert waits.hex in page


def test_polling_returns_changes_and_slows_down_without_running_jobs(
    browser: Browser, platform: Platform
) -> None:
    (job_id,) = approved(browser, platform, "live")
    page = browser.client.get("/fine-tune").text
    assert now(browser, page).status_code == 204
    command(browser, job_id, "pause")
    answer = now(browser, page).text
    assert PAUSED[PauseReason.OWNER].badge in answer
    assert 'hx-trigger="every 15s"' in answer


def test_a_page_continues_after_the_last_job(browser: Browser, platform: Platform) -> None:
    names = [f"job-{number}" for number in range(27)]
    approved(browser, platform, *names)
    first = browser.client.get("/fine-tune").text
    assert titles(first) == names[:1:-1]
    older = re.search(r'href="(/fine-tune\?after=[^"]+)" rel="next"', first)
    assert older is not None
    second = browser.client.get(older[1]).text
    assert titles(second) == ["job-1", "job-0"]
    assert ">Newest jobs</a>" in second


def test_a_comparison_shows_the_differences(browser: Browser, platform: Platform) -> None:
    first, second = approved(browser, platform, "first", "second")
    body = {"dataset": browser.client.get(f"/api/jobs/{first}").json()["dataset_id"]}
    body |= {"base_model": "tiny", "wait": True, "hyperparameters": {"epochs": 5}}
    third = browser.client.post("/api/jobs", json=body, headers=browser.htmx).json()["id"]
    page = compared(browser, first, third).text
    assert f'data-path-1="/fine-tune/ftjob-{first.hex}"' in page
    assert f'data-path-2="/fine-tune/{third}"' in page
    assert '<th scope="row">Epochs</th><td>3</td><td>5</td>' in page
    assert '<th scope="row">LoRA r</th>' not in page
    assert '<th scope="row">Cost</th><td>$0.00</td><td>$0.00</td>' in page
    assert f'<th scope="row">GPUs</th><td>{CPU}</td><td>{CPU}</td>' in page
    assert '<th scope="row">Region</th><td>This machine</td><td>This machine</td>' in page
    assert f'data-title-1="first" data-path-2="/fine-tune/{third}"' in page
    assert f'data-title-2="{third[6:14]}"' in page
    assert 'data-note="same-settings"' in compared(browser, first, second).text


def test_jobs_of_the_same_name_show_their_ids(browser: Browser, platform: Platform) -> None:
    jobs = approved(browser, platform, "same", "same")
    shown = compared(browser, *jobs).text
    for job in jobs:
        assert f'="same {job.hex[:8]}"' in shown  # of the curves
        assert f">same {job.hex[:8]}</a>" in shown


def test_a_comparison_needs_two_own_jobs(browser: Browser, platform: Platform) -> None:
    (job_id,) = approved(browser, platform, "only")
    for jobs in ([], [job_id], [job_id, job_id]):
        page = compared(browser, *jobs)
        assert page.status_code == 200
        assert 'data-note="choose-two"' in page.text
    stranger = signed_in(browser.client, platform.person())
    assert compared(stranger, job_id, job_id).status_code == 404
