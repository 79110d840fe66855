"""Permitted URLs and addresses of endpoints."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from domain.core.errors import Invalid
from domain.core.target import TargetPolicy, parsed_networks

PUBLIC = ("93.184.215.14", "1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101")

NOT_PUBLIC = (
    "127.0.0.1",
    "127.255.255.254",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",  # metadata of cloud machines
    "100.64.0.1",  # carrier-grade NAT
    "192.0.0.8",
    "192.88.99.1",  # relays of 6to4
    "::ffff:192.88.99.1",
    "2002:c058:6301::1",
    "3fff::1",
    "5f00::1",
    "0.0.0.0",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",  # IPv4-compatible
    "::ffff:127.0.0.1",  # IPv4-mapped
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",  # NAT64
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::",  # 6to4
    "2002:a00:1::1",
    "2001:0:4136:e378:8000:63bf:f5ff:fffe",  # Teredo of 10.0.0.1
    "fe80::1",
    "fec0::1",
    "fc00::1",
    "fd12:3456::1",
    "ff02::1",
    "2001:db8::1",
    "100::1",
)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_permitted(address: str) -> None:
    assert TargetPolicy().permits(ip_address(address))


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_other_addresses_are_not_permitted(address: str) -> None:
    assert not TargetPolicy().permits(ip_address(address))


def test_an_operator_permits_networks() -> None:
    policy = TargetPolicy(parsed_networks("10.0.0.0/8, fd00::/8"))
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd12::1", "1.1.1.1"):
        assert policy.permits(ip_address(address))
    for address in ("192.168.1.1", "fc00::1", "127.0.0.1"):
        assert not policy.permits(ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/hooks?token=x",
        "https://example.com:8443/",
        "https://1.1.1.1/",
        "https://[2606:4700::1111]/x",
    ],
)
def test_public_https_urls_are_permitted(url: str) -> None:
    TargetPolicy().require_url(url)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://example.com/", "not encrypted"),
        ("ftp://example.com/", "not a web address"),
        ("file:///etc/passwd", "not a web address"),
        ("example.com", "not a web address"),
        ("https://", "not a web address"),
        ("https://ada:secret@example.com/", "user name"),
        ("https://example.com/#part", "fragment"),
        ("https://example.com:22/", "port 22"),
        ("https://example.com:0/", "port 0"),
        ("https://example.com:99999/", "not a URL"),
        ("https://[::1/", "not a URL"),
        ("https://[v1.abc]/", "not an IPv6 address"),
        ("https://exämple.com/", "outside ASCII"),
        ("https://example.com/a b", "a space"),
        ("https://example.com/\n", "a space"),
        ("https://127.0.0.1/", "not a public address"),
        ("https://[::ffff:10.0.0.1]:8443/", "not a public address"),
        ("https://example.com/" + "x" * 2000, "at most 2,000"),
    ],
)
def test_other_urls_are_refused_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(Invalid, match=reason) as refused:
        TargetPolicy().require_url(url)
    assert refused.value.field == "url"


def test_an_operator_permits_urls_without_tls() -> None:
    TargetPolicy(parsed_networks("127.0.0.0/8"), http=True).require_url("http://127.0.0.1:8080/")
