"""The billing page: figures, refusals, and payments that count once."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient

from domain.billing.account import Account
from domain.billing.meter import Meter, SegmentLimits
from domain.core.aggregate import because
from domain.jobs.job import Job
from gateway.billing.service import TEST_PAYMENT_REMOTE
from infrastructure.settings import Settings
from tests.builders.platform import Person, Platform
from tests.gateway.conftest import application
from tests.gateway.web.html import read_html
from tests.gateway.web.signed_in import Browser, signed_in


@contextmanager
def at(settings: Settings, platform: Platform, **change: object) -> Iterator[Browser]:
    """The browser of a new account on a gateway with other settings."""
    changed = settings.model_copy(update=change)
    with local_client(changed) as client:
        yield signed_in(client, platform.person())


def local_client(settings: Settings) -> TestClient:
    """A client on the gateway's own host that connects to it directly."""
    return TestClient(
        application(settings),
        base_url="http://127.0.0.1:8080",
        client=("127.0.0.1", 50000),
        raise_server_exceptions=False,
    )


@pytest.fixture
def paying(settings: Settings, projecting: None, platform: Platform) -> Iterator[Browser]:
    """A browser on a gateway that accepts test payments."""
    with at(settings, platform, test_payments=True) as browser:
        yield browser


@pytest.fixture
def asking(settings: Settings, projecting: None, platform: Platform) -> Iterator[Browser]:
    """A browser on a gateway whose operator confirms payments."""
    how = "Transfer to <IBAN>."
    with at(settings, platform, test_payments=False, payment_instructions=how) as browser:
        yield browser


def top_up(browser: Browser, amount: str, key: str | None = None) -> str:
    fields = {"amount": amount, "command_key": key or uuid4().hex}
    answer = browser.client.post("/billing/top-ups", data=fields, headers=browser.htmx)
    assert answer.status_code == 200
    return answer.text


def balance(browser: Browser) -> str:
    return browser.client.get("/api/account").json()["balance"]["text"]


def words(html: str) -> str:
    """Return text without tags."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def approved_job(browser: Browser, platform: Platform) -> UUID:
    """A job with the suffix `mine`."""
    platform.base_model()
    body = {
        "dataset": str(platform.dataset(browser.person)),
        "base_model": "tiny",
        "suffix": "mine",
    }
    job = browser.client.post("/api/jobs", json=body, headers=browser.htmx).json()
    return UUID(job["id"].removeprefix("ftjob-"))


def run_a_minute(
    platform: Platform,
    person: Person,
    job_id: UUID,
    segment: int = 1,
    limits: SegmentLimits = SegmentLimits(),
) -> None:
    """Run a segment for a minute at $0.60 an hour, and end it."""
    with because(platform.cause):
        meter = Meter.open(person.account_id, job_id, segment, 600_000, limits)
        account = platform.log.load(Account, person.account_id)
        account.settle(captured_micros=0, reserved_micros=meter.extend_lease(300))
        platform.log.commit(meter, account)
        charge, released = meter.close(60, 60)
        account.settle(captured_micros=charge, reserved_micros=-released)
        platform.log.commit(meter, account)
    platform.project()


def test_the_page_shows_the_balance(browser: Browser) -> None:
    page = words(browser.client.get("/billing").text)
    assert "Balance $20.00" in page
    assert "Available $20.00" in page
    assert "Runway —" in page
    html = browser.client.get("/billing").text
    assert 'data-reason="credit granted"' in html
    assert 'data-empty="spend"' in html


def test_without_self_service_the_page_shows_the_operators_instructions(asking: Browser) -> None:
    page = asking.client.get("/billing").text
    assert "Transfer to &lt;IBAN&gt;." in page
    assert str(asking.person.account_id) in page
    assert "/billing/top-ups" not in page
    assert 'data-code="forbidden"' in top_up(asking, "5")
    answer = asking.client.post("/api/account/top-ups", json={"amount": "5"}, headers=asking.htmx)
    assert answer.status_code == 403
    assert balance(asking) == "$0.00"


PROXY_HEADERS = (
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "cf-connecting-ip",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "cdn-loop",
    "cf-ray",
    "fly-client-ip",
    "tailscale-user-login",
    "x-amzn-trace-id",
    "x-azure-clientip",
    "x-original-host",
    "x-scheme",
)


def assert_no_test_payment(browser: Browser) -> None:
    assert TEST_PAYMENT_REMOTE in top_up(browser, "5")
    answer = browser.client.post("/api/account/top-ups", json={"amount": "5"}, headers=browser.htmx)
    assert answer.status_code == 403
    assert answer.json()["error"]["message"] == TEST_PAYMENT_REMOTE
    assert "/billing/top-ups" not in browser.client.get("/billing").text
    assert balance(browser) == "$0.00"


def test_no_test_payment_comes_through_a_proxy(paying: Browser, subtests: pytest.Subtests) -> None:
    for header in PROXY_HEADERS:
        with subtests.test(header):
            paying.client.headers[header] = "127.0.0.1"
            assert_no_test_payment(paying)
        del paying.client.headers[header]


def test_no_test_payment_comes_through_a_relay(paying: Browser, subtests: pytest.Subtests) -> None:
    """A TCP relay on this host is a loopback peer, but its clients name the relay's address."""
    for host in (
        *("ecolink.example", "192.0.2.7:8080", "127.0.0.1:9999", "evil", "127.0.0.1", ""),
        *("evil@127.0.0.1:8080", "127.0.0.1:8080/", "127.0.0.1:8080#x", "127.0.0.1:08080x"),
        *("127.0.0.1:8080, evil.example", "2130706433:8080", "127.1:8080", "localhost.:8080"),
        *("127.0.0.1:8080 ", "[::ffff:127.0.0.1]:8080", "x?127.0.0.1:8080", "127.0.0.1:+8080"),
    ):
        with subtests.test(host):
            paying.client.headers["host"] = host
            assert_no_test_payment(paying)


@pytest.mark.parametrize("peer", ["192.0.2.7", "2001:db8::1", "testclient"])
def test_no_test_payment_comes_from_another_host(
    settings: Settings, projecting: None, platform: Platform, peer: str
) -> None:
    changed = settings.model_copy(update={"test_payments": True})
    app = application(changed)
    with TestClient(app, "http://127.0.0.1:8080", client=(peer, 50000)) as client:
        assert_no_test_payment(signed_in(client, platform.person()))


def test_no_test_payment_is_taken_behind_a_public_address(
    settings: Settings, projecting: None, platform: Platform
) -> None:
    with at(settings, platform, test_payments=True, public_url="http://127.0.0.1:8080") as browser:
        assert_no_test_payment(browser)


def test_test_payments_have_a_daily_limit(paying: Browser) -> None:
    assert 'data-added="$900.00"' in top_up(paying, "900")
    assert "data-added" not in top_up(paying, "100.01")
    assert 'data-added="$100.00"' in top_up(paying, "100")
    assert balance(paying) == "$1,000.00"


def test_a_test_payment_counts_immediately_and_is_marked(paying: Browser) -> None:
    answer = top_up(paying, "12.50")
    assert 'data-added="$12.50"' in answer
    assert "Balance $12.50" in words(answer)
    assert balance(paying) == "$12.50"
    (posting,) = paying.client.get("/api/ledger").json()["data"]
    assert posting["reason"] == "topped up"
    assert posting["reference"].startswith("test payment ")
    assert posting["debit"] == "test money"
    page = words(paying.client.get("/billing").text)
    assert "test money" in page


def test_a_form_that_is_sent_twice_is_one_payment(paying: Browser) -> None:
    key = form_key(paying.client.get("/billing").text)
    first, second = (top_up(paying, "7", key) for _ in range(2))
    assert "Balance $7.00" in words(first)
    assert "Balance $7.00" in words(second)
    assert 'data-code="idempotency_key_reused"' in top_up(paying, "8", key)
    assert balance(paying) == "$7.00"
    top_up(paying, "7", form_key(second))
    assert balance(paying) == "$14.00"


def form_key(html: str) -> str:
    found = re.search(r'name="command_key" value="(\w+)"', html)
    assert found is not None
    return found[1]


def test_two_accounts_may_use_the_same_key(paying: Browser, platform: Platform) -> None:
    for headers in (paying.person.headers, platform.person().headers):
        answer = paying.client.post(
            "/api/account/top-ups",
            json={"amount": "3"},
            headers=headers | {"idempotency-key": "the same"},
        )
        assert answer.status_code == 200
        assert answer.json()["balance"]["text"] == "$3.00"


def test_an_invalid_amount_is_refused_at_its_field(paying: Browser) -> None:
    for amount in ("", "much", "0", "-5", "1,000", "5.005", "1000.01"):
        answer = top_up(paying, amount)
        assert 'id="amount-problem"' in answer
        assert 'aria-invalid="true"' in answer
        assert f'value="{amount}"' in answer
    assert balance(paying) == "$0.00"


def test_polling_returns_only_changes(browser: Browser, platform: Platform) -> None:
    page = browser.client.get("/billing").text
    polled = re.search(r'hx-get="(/billing/now[^"]+)" hx-trigger="every 15s"', page)
    assert polled is not None
    path = polled[1].replace("&amp;", "&")
    assert browser.client.get(path, headers=browser.htmx).status_code == 204
    platform.credit(browser.person, 1_000_000)
    platform.project()
    answer = browser.client.get(path, headers=browser.htmx)
    assert answer.status_code == 200
    assert "$21.00" in answer.text
    assert '<hx-partial hx-target="#balance-now"' in answer.text
    assert '<hx-partial hx-target="#ledger"' in answer.text


def test_without_postings_polling_returns_only_the_figures(browser: Browser) -> None:
    page = browser.client.get("/billing").text
    polled = re.search(r'hx-get="(/billing/now[^"]+)"', page)
    assert polled is not None
    path = re.sub(r"seen=\w+", "seen=other", polled[1].replace("&amp;", "&"))
    answer = browser.client.get(path, headers=browser.htmx)
    assert '<hx-partial hx-target="#balance"' in answer.text
    assert '<hx-partial hx-target="#ledger"' not in answer.text
    assert "posted=" in answer.text


def test_an_open_page_moves_to_the_next_day(browser: Browser) -> None:
    polled = re.search(r'hx-get="(/billing/now[^"]+)"', browser.client.get("/billing").text)
    assert polled is not None
    assert "last=" not in polled[1]
    asked = browser.client.get("/billing?first=2026-01-01&last=2026-01-31").text
    assert "/billing/now?first=2026-01-01&amp;last=2026-01-31" in asked.replace("kind=&amp;", "")


def test_statements_add_up(browser: Browser, platform: Platform) -> None:
    job_id = approved_job(browser, platform)
    run_a_minute(platform, browser.person, job_id)
    page = browser.client.get("/billing").text
    name = browser.client.get("/api/datasets").json()["data"][0]["name"] or "a deleted dataset"
    assert f"ftjob-{job_id.hex}" in page
    text = words(page)
    assert "Total $0.00 — — $20.00 $0.01 — $19.99" in text
    assert f"mine {name} · tiny 1 60 s $0.01 — $0.01" in text
    assert "minute 1 of launch 1, 0 to 60 s" in text
    assert "mine \N{MINUS SIGN}$0.01 $19.99" in text
    assert "+$20.00 $20.00" in text
    assert 'data-reason="credit granted"' in page
    assert 'id="spend-words"' in page


def amounts(page: str, column: str) -> list[Decimal]:
    """Return the amounts in one column, with 0 for a dash."""
    cells = re.findall(rf'<td [^>]*data-column="{column}"[^>]*>(.*?)</td>', page)
    texts = [re.sub(r"<[^>]+>|[$,+]", "", cell).replace("\N{MINUS SIGN}", "-") for cell in cells]
    return [Decimal(0 if text == "—" else text) for text in texts]


def test_rows_with_fractions_of_a_cent_add_up_as_shown(
    browser: Browser, platform: Platform
) -> None:
    platform.credit(browser.person, 1_234_567)
    run_a_minute(platform, browser.person, approved_job(browser, platform))
    run_a_minute(platform, browser.person, approved_job(browser, platform))
    page = browser.client.get("/billing").text
    by_day, _, rest = page.partition('id="by-job-title"')
    by_job, _, ledger = rest.partition('id="ledger-title"')
    for column in ("top_ups", "credits", "charges", "reversals"):
        *rows, total = amounts(by_day, column)
        assert sum(rows) == total, column
    *_, opening = amounts(by_day, "opening")
    *_, closing = amounts(by_day, "closing")
    moved = [amounts(by_day, column)[-1] for column in ("credits", "charges")]
    assert opening + moved[0] - moved[1] == closing == Decimal("21.214567")
    for column in ("charges", "cost"):
        *rows, total = amounts(by_job, column)
        assert sum(rows) == total, column
    balances, posted = amounts(ledger, "balance"), amounts(ledger, "amount")
    assert len(balances) == 4
    for after, before, amount in zip(balances, [*balances[1:], Decimal(0)], posted, strict=True):
        assert before + amount == after


def test_the_ledger_is_filtered_by_job_kind_and_day(browser: Browser, platform: Platform) -> None:
    job_id = approved_job(browser, platform)
    run_a_minute(platform, browser.person, job_id)
    run_a_minute(platform, browser.person, approved_job(browser, platform))

    def rows(**asked: str) -> list[str]:
        page = browser.client.get("/billing", params=asked).text
        return re.findall(r'id="posting-(\d+)"', page)

    assert rows() == ["6", "3", "1"]
    assert rows(kind="all") == ["7", "6", "5", "4", "3", "2", "1"]
    assert rows(kind="minutes") == ["6", "3"]
    assert rows(kind="paid-in") == ["1"]
    assert rows(kind="leases", job="") == ["7", "5", "4", "2"]
    assert rows(job=f"ftjob-{job_id.hex}") == ["3"]
    assert rows(kind="returned") == []
    assert rows(first="2020-01-01", last="2020-01-31") == []
    assert rows(before="3") == ["1"]

    page = browser.client.get("/billing", params={"kind": "minutes", "job": str(job_id)}).text
    link = re.search(r'href="(/api/ledger\.csv\?[^"]+)"', page)
    assert link is not None
    (row,) = csv.DictReader(io.StringIO(browser.client.get(link[1].replace("&amp;", "&")).text))
    assert (row["reason"], row["job_id"]) == ("minute metered", str(job_id))


def test_a_covered_minute_costs_nothing(browser: Browser, platform: Platform) -> None:
    job_id = approved_job(browser, platform)
    limits = SegmentLimits(guarantee_micros=5_000)
    run_a_minute(platform, browser.person, job_id, limits=limits)
    usual = browser.client.get("/billing").text
    assert 'data-reason="minute covered by the price guarantee"' not in usual
    minutes = browser.client.get("/billing", params={"kind": "minutes"}).text
    row = minutes[minutes.index('data-reason="minute covered by the price guarantee"') :]
    assert amounts(row, "amount")[0] == 0
    assert amounts(row, "balance")[0] == Decimal("19.995")


def test_an_invalid_query_is_refused_with_a_page(browser: Browser) -> None:
    for query in ("last=x", "job=x", "kind=x", "before=0"):
        answer = browser.client.get(f"/billing?{query}")
        assert answer.status_code == 422, query
        assert "<h1>" in answer.text


@pytest.mark.parametrize("last", ["2026-01-31", "2027-02-03"])
def test_invalid_days_are_refused_beside_their_fields(browser: Browser, last: str) -> None:
    query = {"first": "2026-02-01", "last": last, "kind": "minutes"}
    answer = browser.client.get("/billing", params=query)
    assert answer.status_code == 200
    page = read_html(answer.text)
    assert page["days-problem"]
    form = next(each for each in page.all() if each.attributes.get("class") == "filters")
    assert form.fields == query  # for the user to correct
    poll = page["billing-now"].attributes["hx-get"]
    assert "kind=minutes" in poll
    assert "first=" not in poll


def test_another_accounts_job_is_not_found(
    browser: Browser, client: TestClient, platform: Platform
) -> None:
    job_id = approved_job(browser, platform)
    run_a_minute(platform, browser.person, job_id)
    other = signed_in(client, platform.person())
    answer = other.client.get("/billing", params={"job": str(job_id)})
    assert answer.status_code == 404
    assert "mine" not in answer.text


def test_a_job_paused_at_zero_balance_links_to_its_resume(
    paying: Browser, platform: Platform
) -> None:
    top_up(paying, "5")
    job_id = approved_job(paying, platform)
    platform.spend(paying.person)
    with because(platform.cause):
        job = platform.log.load(Job, job_id)
        job.deplete()
        platform.log.commit(job)
    platform.project()
    page = paying.client.get("/billing").text
    waiting = read_html(page)[f"waiting-{job_id.hex}"]
    assert waiting.attributes["data-missing"].startswith("$")
    amount = re.search(r'name="amount"[^>]* value="([0-9.]+)"', page)
    assert amount is not None
    answer = top_up(paying, amount[1])
    assert 'data-missing="$0.00"' in answer
    assert f'href="/fine-tune/ftjob-{job_id.hex}"' in answer
