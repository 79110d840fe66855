"""Verification of the log in a browser, by an auditor of a running stack."""

from __future__ import annotations

import json
import re
from pathlib import Path
from uuid import uuid4

import pytest
from playwright.sync_api import Page, expect

from deploy.demo.account import DemoAccount, acting_for_the_demo
from domain.access.role import Role
from tests.browser.tabs import Tabs
from tests.polling import eventually
from tests.running import TIMEOUT_SECONDS, EcoLinkUnderTest

pytestmark = pytest.mark.timeout(4 * TIMEOUT_SECONDS)


@pytest.fixture
def auditor(tabs: Tabs, ecolink: EcoLinkUnderTest) -> Page:
    """A tab in which an auditor is signed in."""
    account_id = uuid4()
    with acting_for_the_demo(ecolink.settings) as use_cases:
        use_cases.open_account(account_id, Role.AUDITOR)
        _, key = use_cases.issue_key(account_id)
    account = DemoAccount(account_id, key)
    return tabs.open(EcoLinkUnderTest(ecolink.settings, ecolink.client, account), "/audit")


def verified(page: Page) -> str | None:
    """Start a verification with the keyboard, and return its verdict. The page updates itself."""
    page.goto("/audit/verification")
    page.get_by_role("button", name="Start").press("Enter")
    page.wait_for_url(re.compile("/audit/verification/[0-9a-f-]{36}$"))
    # A replay of the whole log takes minutes on a busy machine.
    expect(page.locator("#verdict")).to_be_visible(timeout=TIMEOUT_SECONDS * 1000)
    return page.locator("#verdict").get_attribute("data-verdict")


@pytest.mark.full
def test_an_auditor_verifies_the_log_and_downloads_the_report(
    auditor: Page, ecolink: EcoLinkUnderTest, tmp_path: Path
) -> None:
    eventually(lambda: ecolink.artifacts.exists("seals/public-key"))
    auditor.get_by_role("button", name="Verify the log").click()
    expect(auditor.get_by_role("heading", name="Last verifications")).to_be_visible()
    # A service may be about to follow the log, and each try takes as long as a replay.
    eventually(lambda: verified(auditor) == "matches", 2 * TIMEOUT_SECONDS)
    expect(auditor.locator("#verdict")).to_contain_text("equals a replay of the log.")
    with auditor.expect_download() as started:
        auditor.get_by_role("button", name="Download the report").click()
    started.value.save_as(tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["seals"]["events"] > 0
    assert report["differences"] == report["seals"]["differences"] == []
    auditor.get_by_role("link", name="Verification", exact=True).click()
    expect(auditor.locator("#runs tbody tr").first).to_contain_text("matches")
