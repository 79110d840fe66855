"""Personal data and secrets in texts, found by presidio's pattern recognizers and own patterns.

The recognizers need neither a language model nor the network. They find data with a format, such
as e-mail addresses, and no names of persons.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from presidio_analyzer import LocalRecognizer
from presidio_analyzer.predefined_recognizers import (
    AuTfnRecognizer,
    CaSinRecognizer,
    CreditCardRecognizer,
    CryptoRecognizer,
    DeSocialSecurityRecognizer,
    DeTaxIdRecognizer,
    EmailRecognizer,
    EsNieRecognizer,
    EsNifRecognizer,
    FiPersonalIdentityCodeRecognizer,
    IbanRecognizer,
    InAadhaarRecognizer,
    InPanRecognizer,
    IpRecognizer,
    ItFiscalCodeRecognizer,
    KrRrnRecognizer,
    NhsRecognizer,
    PhoneRecognizer,
    PlPeselRecognizer,
    SePersonnummerRecognizer,
    SgFinRecognizer,
    ThTninRecognizer,
    TrNationalIdRecognizer,
    UkNinoRecognizer,
    UsItinRecognizer,
    UsSsnRecognizer,
    ZaIdNumberRecognizer,
)
from tldextract import TLDExtract

from domain.datasets.findings import Finding
from extensions.quality.worker.secrets import secrets_in

LEAST_SCORE = 0.4
"""Least score of presidio, 0 to 1, of data that needs no context."""

WINDOW, BEFORE, AFTER = 4_000, 100, 400
"""Characters of a part of a long text, and those before and after it that are searched with it.

Some patterns need a time that grows with the square of the text, so each searches parts. `BEFORE`
has room for a context, and `AFTER` for the longest e-mail address of RFC 5321.
"""

CONTEXT_CHARACTERS = 60
"""Characters before a number in which a word of its context must be."""

PRECEDENCE = (
    Finding.SECRET,
    Finding.EMAIL_ADDRESS,
    Finding.IBAN,
    Finding.CREDIT_CARD,
    Finding.CRYPTO_ADDRESS,
    Finding.NATIONAL_ID,
    Finding.IP_ADDRESS,
    Finding.PHONE_NUMBER,
)
"""Kinds in the order in which they win where they overlap. Phone numbers are the vaguest."""


class Span(NamedTuple):
    """A part of a text with personal data."""

    start: int
    end: int
    kind: Finding


class _OfflineEmail(EmailRecognizer):
    """presidio's recognizer with the list of top-level domains in the package, not the newest."""

    _domains = TLDExtract(suffix_list_urls=(), cache_dir=None)

    def validate_result(self, pattern_text: str) -> bool:
        return self._domains(pattern_text.rpartition("@")[2]).top_domain_under_public_suffix != ""


class _Search(NamedTuple):
    """A recognizer, the kind of its findings, and a quick test that a text may have some."""

    kind: Finding
    recognizer: LocalRecognizer
    may_have: Callable[[str], object]
    needs_context: bool = False
    has_digits: bool = True


def _has(pattern: str) -> Callable[[str], object]:
    return re.compile(pattern).search


_DIGITS_9 = r"\d(?:[ \-]?\d){8}"

NATIONAL: tuple[tuple[Callable[[], LocalRecognizer], str, bool], ...] = (
    (UsSsnRecognizer, r"\d{3}[- .]\d{2}[- .]\d{4}", False),
    (UsItinRecognizer, r"9\d{2}[- ]\d{2}[- ]\d{4}", False),
    (UkNinoRecognizer, r"[A-Za-z]{2} ?\d{2} ?\d{2} ?\d{2} ?[A-Da-d]\b", False),
    (EsNifRecognizer, r"\d{7}-?[A-Z]\b", False),
    (EsNieRecognizer, r"\b[X-Z]\d{7}-?[A-Z]\b", False),
    (ItFiscalCodeRecognizer, r"(?i)[A-Z]{6}[\dL-V]{2}[A-EHLMPR-T]", False),
    (FiPersonalIdentityCodeRecognizer, r"\d{6}[-+A-FU-Y]\d{3}", False),
    (SgFinRecognizer, r"\b[STFGMstfgm]\d{7}[A-Za-z]\b", False),
    (KrRrnRecognizer, r"\d{6}-[1-4]\d{6}", False),
    (InPanRecognizer, r"\b[A-Z]{5}\d{4}[A-Z]\b", False),
    (DeSocialSecurityRecognizer, r"\d{8}[A-Z]\d{3}", False),
    (CaSinRecognizer, r"\d{3}[- ]\d{3}[- ]\d{3}", True),
    (AuTfnRecognizer, _DIGITS_9, True),
    (InAadhaarRecognizer, r"\d{4}[- :]?\d{4}[- :]?\d{4}", True),
    (NhsRecognizer, r"\d{3}[- ]?\d{3}[- ]?\d{4}", True),
    (PlPeselRecognizer, r"\d{11}", True),
    (DeTaxIdRecognizer, r"\d{11}", True),
    (TrNationalIdRecognizer, r"\d{11}", True),
    (SePersonnummerRecognizer, r"\d{6}[-+]?\d{4}", True),
    (ThTninRecognizer, r"\d{13}", True),
    (ZaIdNumberRecognizer, r"\d{13}", True),
)
"""Recognizers of national IDs, a test, and True if only a context shows that it is one."""

CONTEXT: dict[str, tuple[str, ...]] = {
    "UK_NHS": ("nhs", "national health"),
    "ZA_ID_NUMBER": ("south african id", "rsa id", "sa id", "identity number", "id number"),
    "SE_PERSONNUMMER": ("personnummer", "svensk"),
    "CA_SIN": ("sin", "social insurance", "nas"),
}
"""Words that replace presidio's, which are too common, such as "id"."""

PHONE = re.compile(
    r"(?<![\w.#$€£/-])(?:\+\d|\(\d|\d)(?:[ .\-/()\u2011]{0,3}\d){6,14}(?![\w%]|[.,-]\d)"
)
"""Text that may be a phone number, which presidio then checks."""

NO_PHONE = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}|\d{9,}\.\d|(?:\d{1,3}\.){3}\d{1,3}(?!\d)"
)
"""A date, a number with a fraction, or an address or a version with four parts."""

PHONE_WORDS = re.compile(
    r"(?i)\b(?:phone|telephone|tel|mobile|cell|call|fax|whatsapp|sms|text|dial|reach|number|"
    r"contact|telefon|handy|t[ée]l[ée]phone|tel[ée]fono|cellulare|telefone)"
)

VERSION_BEFORE = re.compile(
    r"(?i)(?:[\w.^<>~]|\w[/-]|[=<>~!]=|(?:version|release|build|firmware|driver|section|chapter|oid|"
    r"upgrade|update|protocol)\w{0,8}\W{0,4}(?:(?:is|of|from)\W)?(?:[\d.]+ (?:to|and) )?)$"
)
VERSION_AFTER = re.compile(r"\.?\w|-(?!\d+\.)\w")
ADDRESS_WORDS = re.compile(
    r"(?i)\b(?:ips?|ipv4|addr(?:ess(?:es)?)?|hosts?|clients?|servers?|peers?|from|connect(?:s|ed)?|ssh|"
    r"ping|remote|login|block(?:s|ed)?|visitors?|dns)\b"
)
LARGE_PART, LARGE_QUOTED_PART = 30, 128
"""Least value of an address's largest part, above those of versions; more after a quote."""

GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")
LEAST_IPV6_GROUPS = 3  # fewer are a slice or a scope in code, such as [2024::2]

EMAIL_KEY = re.compile(r"[A-Za-z_]{1,30}=")
"""Name of a field before an address, as in `from=anna@example.com`."""

DIGIT = re.compile(r"\d")
ETHEREUM = re.compile(r"\b0x[0-9a-fA-F]{40}\b")


class Recognizers:
    """A detector of personal data. Creating one takes a second."""

    def __init__(self, check: Callable[[], object] = lambda: None) -> None:
        """Create it. It calls `check` before each part of a text, and passes on its exceptions."""
        self._check = check
        self._searches = [
            _Search(Finding.EMAIL_ADDRESS, _OfflineEmail(), _has("@"), has_digits=False),
            _Search(Finding.IBAN, IbanRecognizer(), _has(r"[A-Z]{2}\d{2}[ -]?[A-Z0-9]{4}")),
            _Search(Finding.CREDIT_CARD, CreditCardRecognizer(), _has(r"\d(?:[- ]?\d){11}")),
            _Search(
                Finding.CRYPTO_ADDRESS, CryptoRecognizer(), _has(r"(?:bc1|[13])[a-zA-Z0-9]{25}")
            ),
            _Search(
                Finding.IP_ADDRESS,
                IpRecognizer(),
                _has(r"\d\.\d{1,3}\.\d{1,3}\.\d|[\da-fA-F]{1,4}:[\da-fA-F]{0,4}:"),
            ),
            *(
                _Search(Finding.NATIONAL_ID, kind(), _has(test), needs_context)
                for kind, test, needs_context in NATIONAL
            ),
        ]
        self._international = PhoneRecognizer(supported_regions=("US",))
        self._national = PhoneRecognizer()

    def spans(self, text: str) -> list[Span]:
        """Return a text's parts with personal data, in order, without overlap, in linear time."""
        self._check()
        found = [Span(start, end, Finding.SECRET) for start, end in secrets_in(text)]
        if len(text) <= WINDOW + AFTER:
            found += self._in_part(text)
        else:
            for start in range(0, len(text), WINDOW):
                self._check()
                offset, end = max(0, start - BEFORE), start + WINDOW
                for span in self._in_part(text[offset : end + AFTER]):
                    if start <= span.start + offset < end:
                        found.append(Span(span.start + offset, span.end + offset, span.kind))
        return without_overlaps(found, len(text))

    def _in_part(self, text: str) -> list[Span]:
        """Return the personal data, without secrets, in a text or a part of one."""
        found: list[Span] = []
        has_digits = DIGIT.search(text) is not None
        for search in self._searches:
            if (has_digits or not search.has_digits) and search.may_have(text):
                found += self._of(search, text)
        if has_digits:
            for match in ETHEREUM.finditer(text):
                found.append(Span(*match.span(), Finding.CRYPTO_ADDRESS))
            found += self._phone_numbers(text, found)
        return found

    def _of(self, search: _Search, text: str) -> Iterator[Span]:
        recognizer = search.recognizer
        for each in recognizer.analyze(text, recognizer.supported_entities, None):  # type: ignore[arg-type]
            part = text[each.start : each.end]
            if search.needs_context:
                accepted = each.score > 0 and _has_context(recognizer, text, each.start)
            else:
                accepted = each.score >= LEAST_SCORE
            if search.kind is Finding.IP_ADDRESS:
                accepted = accepted and _is_public_address(text, each.start, each.end)
            key = EMAIL_KEY.match(part) if search.kind is Finding.EMAIL_ADDRESS else None
            if accepted:
                yield Span(each.start + (key.end() if key else 0), each.end, search.kind)

    def _phone_numbers(self, text: str, others: Iterable[Span]) -> Iterator[Span]:
        """Yield phone numbers: international ones, and others with a separator or a word.

        They are outside of other personal data, because the search of one takes a millisecond.
        """
        for match in PHONE.finditer(_blanked(text, others)):
            candidate = match[0]
            if NO_PHONE.search(candidate):
                continue
            plain = candidate.isdigit()
            before = text[max(0, match.start() - CONTEXT_CHARACTERS) : match.start()]
            if plain and not PHONE_WORDS.search(before):
                continue
            phones = self._international if candidate.startswith("+") else self._national
            for each in phones.analyze(candidate, ["PHONE_NUMBER"], None):  # type: ignore[arg-type]
                start, end = match.start() + each.start, match.start() + each.end
                yield Span(start, end, Finding.PHONE_NUMBER)


def _has_context(recognizer: LocalRecognizer, text: str, start: int) -> bool:
    words = CONTEXT.get(recognizer.supported_entities[0], recognizer.context or ())
    before = text[max(0, start - CONTEXT_CHARACTERS) : start].casefold()
    return any(re.search(rf"\b{re.escape(word.casefold())}\b", before) for word in words)


def _is_public_address(text: str, start: int, end: int) -> bool:
    """Return True for a public address of the internet, not for a version, or a slice in code."""
    try:
        ip = ipaddress.ip_interface(text[start:end]).ip
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        groups = [group for group in text[start:end].split(":") if group]
        return ip.is_global and ip in GLOBAL_IPV6 and len(groups) >= LEAST_IPV6_GROUPS
    before = text[max(0, start - CONTEXT_CHARACTERS) : start]
    if not ip.is_global or VERSION_BEFORE.search(before) or VERSION_AFTER.match(text, end):
        return False
    starts_line = not before or before.endswith("\n")  # as in access logs
    least = LARGE_QUOTED_PART if before[-1:] in tuple("\"'`:(") else LARGE_PART
    return max(ip.packed) >= least or starts_line or ADDRESS_WORDS.search(before) is not None


def _blanked(text: str, spans: Iterable[Span]) -> str:
    """Return a text of the same length with line ends in place of the spans, which may overlap."""
    parts: list[str] = []
    at = 0
    for span in sorted(spans):
        if span.end > at:
            parts += text[at : span.start], "\n" * (span.end - max(at, span.start))
            at = span.end
    return "".join((*parts, text[at:]))


def without_overlaps(found: list[Span], length: int) -> list[Span]:
    """Return the spans of a text of `length` characters in order.

    Where some overlap, keep the first by kind, and then the longest. The time is proportional to
    the sum of their lengths.
    """
    if len(found) < 2:
        return found
    found.sort(key=lambda span: (PRECEDENCE.index(span.kind), span.start - span.end, span.start))
    taken = bytearray(length)
    kept: list[Span] = []
    for span in found:
        if taken.find(1, span.start, span.end) < 0:
            taken[span.start : span.end] = b"\1" * (span.end - span.start)
            kept.append(span)
    return sorted(kept)
