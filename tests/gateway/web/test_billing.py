"""The page of money: what it shows, what it refuses, and that a payment counts once."""

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
from domain.billing.meter import Meter
from domain.core.aggregate import because
from domain.jobs.job import Job
from gateway.app import create_app
from infrastructure.settings import Settings
from tests.gateway.conftest import Person, World
from tests.gateway.web.html import read_html
from tests.gateway.web.signed_in import Browser, signed_in


@contextmanager
def at(settings: Settings, world: World, **change: object) -> Iterator[Browser]:
    """The browser of somebody with nothing, at a gateway with other settings."""
    changed = settings.model_copy(update=change)
    with local_client(changed) as client:
        yield signed_in(client, world.person())


def local_client(settings: Settings) -> TestClient:
    """A client on the gateway's own host, which connects to it directly."""
    return TestClient(
        create_app(settings),
        base_url="http://127.0.0.1:8080",
        client=("127.0.0.1", 50000),
        raise_server_exceptions=False,
    )


@pytest.fixture
def paying(settings: Settings, projecting: None, world: World) -> Iterator[Browser]:
    """At a gateway that takes test payments."""
    with at(settings, world, test_payments=True) as browser:
        yield browser


@pytest.fixture
def asking(settings: Settings, projecting: None, world: World) -> Iterator[Browser]:
    """At a gateway whose operator confirms payments, and says how to pay."""
    how = "Transfer to <IBAN>."
    with at(settings, world, test_payments=False, payment_instructions=how) as browser:
        yield browser


def top_up(browser: Browser, amount: str, key: str | None = None) -> str:
    fields = {"amount": amount, "command_key": key or uuid4().hex}
    answer = browser.client.post("/billing/top-ups", data=fields, headers=browser.htmx)
    assert answer.status_code == 200
    return answer.text


def balance(browser: Browser) -> str:
    return browser.client.get("/api/account").json()["balance"]["text"]


def words(html: str) -> str:
    """What is read, without tags."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def approved_job(browser: Browser, world: World) -> UUID:
    """A job with the suffix `mine`."""
    world.base_model()
    body = {"dataset": str(world.dataset(browser.person)), "base_model": "tiny", "suffix": "mine"}
    job = browser.client.post("/api/jobs", json=body, headers=browser.htmx).json()
    return UUID(job["id"].removeprefix("ftjob-"))


def run_a_minute(world: World, person: Person, job_id: UUID, segment: int = 1) -> None:
    """A segment runs for a minute of sixty cents an hour, and ends."""
    with because(world.cause):
        meter = Meter.open(person.account_id, job_id, segment, 600_000)
        account = world.log.load(Account, person.account_id)
        account.settle(captured_micros=0, reserved_micros=meter.extend_lease(300))
        world.log.commit(meter, account)
        charge, released = meter.close(60, 60)
        account.settle(captured_micros=charge, reserved_micros=-released)
        world.log.commit(meter, account)
    world.project()


def test_the_page_says_what_there_is(browser: Browser) -> None:
    page = words(browser.client.get("/billing").text)
    assert "Balance $20.00" in page
    assert "Available $20.00" in page
    assert "Runway — no job is running" in page
    assert "Credit granted" in page
    assert "Nothing was charged" in page


def test_where_an_operator_confirms_the_page_says_how_to_pay(asking: Browser) -> None:
    page = asking.client.get("/billing").text
    assert "Transfer to &lt;IBAN&gt;." in page
    assert str(asking.person.account_id) in page
    assert "/billing/top-ups" not in page
    assert "An operator confirms payments here" in top_up(asking, "5")
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
)


def assert_no_test_payment(browser: Browser) -> None:
    said = "est payments are accepted only from the host of this EcoLink"
    assert said in top_up(browser, "5")
    answer = browser.client.post("/api/account/top-ups", json={"amount": "5"}, headers=browser.htmx)
    assert answer.status_code == 403
    assert said in answer.json()["error"]["message"]
    assert "/billing/top-ups" not in browser.client.get("/billing").text
    assert balance(browser) == "$0.00"


@pytest.mark.parametrize("header", PROXY_HEADERS)
def test_no_test_payment_comes_through_a_proxy(paying: Browser, header: str) -> None:
    paying.client.headers[header] = "127.0.0.1"
    assert_no_test_payment(paying)


@pytest.mark.parametrize("host", ["ecolink.example", "192.0.2.7:8080", "127.0.0.1:9999", "evil"])
def test_no_test_payment_comes_through_a_relay(paying: Browser, host: str) -> None:
    """A TCP relay on this host is a loopback peer, but its clients name the relay's address."""
    paying.client.headers["host"] = host
    assert_no_test_payment(paying)


@pytest.mark.parametrize("peer", ["192.0.2.7", "2001:db8::1", "testclient"])
def test_no_test_payment_comes_from_another_host(
    settings: Settings, projecting: None, world: World, peer: str
) -> None:
    changed = settings.model_copy(update={"test_payments": True})
    app = create_app(changed)
    with TestClient(app, "http://127.0.0.1:8080", client=(peer, 50000)) as client:
        assert_no_test_payment(signed_in(client, world.person()))


def test_no_test_payment_is_taken_behind_a_public_address(
    settings: Settings, projecting: None, world: World
) -> None:
    with at(settings, world, test_payments=True, public_url="http://127.0.0.1:8080") as browser:
        assert_no_test_payment(browser)


def test_test_payments_are_capped_a_day(paying: Browser) -> None:
    assert "was added" in top_up(paying, "900")
    assert "Test payments are limited to $1,000.00 a day" in top_up(paying, "100.01")
    assert "$100.00 is left today" in top_up(paying, "100.01")
    assert "was added" in top_up(paying, "100")
    assert balance(paying) == "$1,000.00"


def test_a_test_payment_counts_at_once_and_is_shown_as_such(paying: Browser) -> None:
    assert "no real money is charged" in paying.client.get("/billing").text
    answer = top_up(paying, "12.50")
    assert "$12.50 was added as a test payment. Your balance is $12.50." in words(answer)
    assert balance(paying) == "$12.50"
    (posting,) = paying.client.get("/api/ledger").json()["data"]
    assert posting["reason"] == "topped up"
    assert posting["reference"].startswith("test payment ")
    assert posting["debit"] == "test money"
    page = words(paying.client.get("/billing").text)
    assert "Topped up test money" in page


def test_a_form_is_one_payment_however_often_it_is_sent(paying: Browser) -> None:
    key = form_key(paying.client.get("/billing").text)
    first, second = (top_up(paying, "7", key) for _ in range(2))
    assert "Your balance is $7.00." in words(first)
    assert "Your balance is $7.00." in words(second)
    assert "was used for $7.00" in words(top_up(paying, "8", key))
    assert balance(paying) == "$7.00"
    top_up(paying, "7", form_key(second))
    assert balance(paying) == "$14.00"


def form_key(html: str) -> str:
    found = re.search(r'name="command_key" value="(\w+)"', html)
    assert found is not None
    return found[1]


def test_two_accounts_may_use_the_same_key(paying: Browser, world: World) -> None:
    for headers in (paying.person.headers, world.person().headers):
        answer = paying.client.post(
            "/api/account/top-ups",
            json={"amount": "3"},
            headers=headers | {"idempotency-key": "the same"},
        )
        assert answer.status_code == 200
        assert answer.json()["balance"]["text"] == "$3.00"


def test_an_amount_that_is_none_is_refused_at_its_field(paying: Browser) -> None:
    for amount, problem in {
        "": "Say how much, in dollars.",
        "much": "&#39;much&#39; is not an amount in dollars",
        "0": "The amount must be above 0",
        "-5": "The amount must be above 0",
        "1,000": "has thousands separators",
        "5.005": "&#39;5.005&#39; has fractions of a cent. Enter whole cents, such as 5.01.",
        "1000.01": "A test payment is $0.01 to $1,000.00.",
    }.items():
        answer = top_up(paying, amount)
        assert problem in answer
        assert 'aria-invalid="true"' in answer
        assert f'value="{amount}"' in answer
    assert balance(paying) == "$0.00"


def test_what_changes_comes_and_what_does_not_stays(browser: Browser, world: World) -> None:
    page = browser.client.get("/billing").text
    polled = re.search(r'hx-get="(/billing/now[^"]+)" hx-trigger="every 15s"', page)
    assert polled is not None
    path = polled[1].replace("&amp;", "&")
    assert browser.client.get(path, headers=browser.htmx).status_code == 204
    world.credit(browser.person, 1_000_000)
    world.project()
    answer = browser.client.get(path, headers=browser.htmx)
    assert answer.status_code == 200
    assert "$21.00" in answer.text
    assert '<hx-partial hx-target="#balance-now"' in answer.text
    assert '<hx-partial hx-target="#ledger"' in answer.text


def test_while_nothing_is_posted_the_figures_alone_come(browser: Browser) -> None:
    page = browser.client.get("/billing").text
    polled = re.search(r'hx-get="(/billing/now[^"]+)"', page)
    assert polled is not None
    path = re.sub(r"seen=\w+", "seen=other", polled[1].replace("&amp;", "&"))
    answer = browser.client.get(path, headers=browser.htmx)
    assert '<hx-partial hx-target="#balance"' in answer.text
    assert '<hx-partial hx-target="#ledger"' not in answer.text
    assert "posted=" in answer.text


def test_a_page_that_is_left_open_goes_on_with_the_days(browser: Browser) -> None:
    polled = re.search(r'hx-get="(/billing/now[^"]+)"', browser.client.get("/billing").text)
    assert polled is not None
    assert "last=" not in polled[1]
    asked = browser.client.get("/billing?first=2026-01-01&last=2026-01-31").text
    assert "/billing/now?first=2026-01-01&amp;last=2026-01-31" in asked.replace("kind=&amp;", "")


def test_statements_add_up(browser: Browser, world: World) -> None:
    job_id = approved_job(browser, world)
    run_a_minute(world, browser.person, job_id)
    page = browser.client.get("/billing").text
    name = browser.client.get("/api/datasets").json()["data"][0]["name"] or "a deleted dataset"
    assert f"ftjob-{job_id.hex}" in page
    text = words(page)
    assert "Total $0.00 — $20.00 $0.01 — $19.99" in text
    assert f"mine {name} · tiny 1 1 60 s $0.01 — $0.01" in text
    assert "minute 1 of launch 1, 0 to 60 s" in text
    assert "mine \N{MINUS SIGN}$0.01 $19.99" in text
    assert "Credit granted" in text
    assert "+$20.00 $20.00" in text
    assert "Charges by day" in text


def amounts(page: str, label: str) -> list[Decimal]:
    """What the cells of one column say, read as a person adds them up; a dash is nothing."""
    cells = re.findall(rf'<td [^>]*data-label="{label}"[^>]*>(.*?)</td>', page)
    texts = [re.sub(r"<[^>]+>|[$,+]", "", cell).replace("\N{MINUS SIGN}", "-") for cell in cells]
    return [Decimal(0 if text == "—" else text) for text in texts]


def test_rows_of_fractions_of_a_cent_add_up_as_they_are_shown(
    browser: Browser, world: World
) -> None:
    world.credit(browser.person, 1_234_567)
    run_a_minute(world, browser.person, approved_job(browser, world))
    run_a_minute(world, browser.person, approved_job(browser, world))
    page = browser.client.get("/billing").text
    by_day, _, rest = page.partition('id="by-job-title"')
    by_job, _, ledger = rest.partition('id="ledger-title"')
    for label in ("Topped up", "Credits", "Charges", "Given back"):
        *rows, total = amounts(by_day, label)
        assert sum(rows) == total, label
    *_, opening = amounts(by_day, "Opening")
    *_, closing = amounts(by_day, "Closing")
    moved = [amounts(by_day, label)[-1] for label in ("Credits", "Charges")]
    assert opening + moved[0] - moved[1] == closing == Decimal("21.214567")
    for label in ("Charges", "Cost"):
        *rows, total = amounts(by_job, label)
        assert sum(rows) == total, label
    balances, posted = amounts(ledger, "Balance"), amounts(ledger, "Amount")
    assert len(balances) == 4
    for after, before, amount in zip(balances, [*balances[1:], Decimal(0)], posted, strict=True):
        assert before + amount == after


def test_the_ledger_is_filtered_by_job_kind_and_day(browser: Browser, world: World) -> None:
    job_id = approved_job(browser, world)
    run_a_minute(world, browser.person, job_id)
    run_a_minute(world, browser.person, approved_job(browser, world))

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


def test_what_cannot_be_asked_is_refused_as_a_page(browser: Browser) -> None:
    for query in ("last=x", "job=x", "kind=x", "before=0"):
        answer = browser.client.get(f"/billing?{query}")
        assert answer.status_code == 422, query
        assert "<h1>" in answer.text


@pytest.mark.parametrize("last", ["2026-01-31", "2027-02-03"])
def test_days_that_no_statement_has_are_refused_beside_their_fields(
    browser: Browser, last: str
) -> None:
    query = {"first": "2026-02-01", "last": last, "kind": "minutes"}
    answer = browser.client.get("/billing", params=query)
    assert answer.status_code == 200
    page = read_html(answer.text)
    assert page["days-problem"].text == (
        "A statement has 1 to 366 days, first to last. Shown are the last thirty days."
    )
    form = next(each for each in page.all() if each.attributes.get("class") == "filters")
    assert form.fields == query  # to be mended
    poll = page["billing-now"].attributes["hx-get"]
    assert "kind=minutes" in poll
    assert "first=" not in poll


def test_nothing_is_told_of_another_accounts_job(
    browser: Browser, client: TestClient, world: World
) -> None:
    job_id = approved_job(browser, world)
    run_a_minute(world, browser.person, job_id)
    other = signed_in(client, world.person())
    answer = other.client.get("/billing", params={"job": str(job_id)})
    assert answer.status_code == 404
    assert "mine" not in answer.text


def test_a_job_that_waits_for_its_resume_is_one_click_away(paying: Browser, world: World) -> None:
    top_up(paying, "5")
    job_id = approved_job(paying, world)
    world.spend(paying.person)
    with because(world.cause):
        job = world.log.load(Job, job_id)
        job.deplete()
        world.log.commit(job)
    world.project()
    page = paying.client.get("/billing").text
    text = words(page)
    assert "mine was paused when the balance reached zero. Top up $" in text
    amount = re.search(r'name="amount"[^>]* value="([0-9.]+)"', page)
    assert amount is not None
    answer = top_up(paying, amount[1])
    assert "mine can be resumed" in words(answer)
    assert f'href="/fine-tune/ftjob-{job_id.hex}"' in answer
