"""A clean corpus of chats, in which duplicates, leaks and personal data are planted."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from domain.datasets.findings import Finding

EDIT_RATES = (0.0, 0.02, 0.05, 0.1, 0.2)
"""Shares of the words that copies change."""

OPENINGS = (
    "Hello, I have a question about {noun}.", "Could you explain {noun} to me?",
    "I am writing about {noun} again.", "My {noun} is not what I expected.",
    "Yesterday we talked about {noun}.", "How does {noun} compare with {noun}?",
)  # fmt: skip
MIDDLES = (
    "The {adjective} {noun} {verb} the {noun} near the {noun}.",
    "Since {month} the {noun} {verb} every {adjective} {noun}.",
    "Order {order} from {date} contains {count} {noun}s for {price}.",
    "We read in chapter {count} that {adjective} {noun}s {verb} slowly.",
    "Version {version} of the {noun} {verb} the {adjective} {noun}.",
    "In {year} the {adjective} {noun} {verb} {big} {noun}s.",
    "My password does not work, and the token of the {noun} has expired.",
    "The {noun} at {time} {verb} page {count} to {big} of the {noun}.",
)
STEMS = [
    "bridge",
    "river",
    "garden",
    "teacher",
    "engine",
    "pattern",
    "window",
    "market",
    "letter",
    "winter",
    "planet",
    "museum",
    "violin",
    "castle",
    "doctor",
    "forest",
    "ticket",
    "island",
    "kitchen",
    "ladder",
    "mirror",
    "needle",
    "orange",
    "pencil",
    "rabbit",
    "saddle",
    "temple",
    "valley",
    "wagon",
    "basket",
    "candle",
    "desert",
    "feather",
    "guitar",
    "hammer",
    "jacket",
    "kettle",
    "lantern",
    "magnet",
    "napkin",
    "oyster",
    "pepper",
    "quilt",
    "ribbon",
    "shelter",
    "thunder",
    "umbrella",
    "velvet",
    "whistle",
    "harbor",
    "canvas",
    "cabinet",
    "battery",
    "compass",
    "dolphin",
    "emerald",
    "fabric",
    "glacier",
    "helmet",
    "incense",
    "journal",
    "keyboard",
    "lizard",
]
ADJECTIVES = [
    "quiet",
    "narrow",
    "ancient",
    "golden",
    "fragile",
    "heavy",
    "curious",
    "bitter",
    "gentle",
    "hollow",
    "polite",
    "rapid",
    "silent",
    "sturdy",
    "tender",
    "vivid",
    "wooden",
    "yellow",
    "clever",
    "distant",
    "eager",
    "fearless",
    "generous",
    "humble",
    "jealous",
    "loyal",
]
VERBS = [
    "replaced",
    "follows",
    "covers",
    "describes",
    "carries",
    "repairs",
    "collects",
    "reflects",
    "supports",
    "measures",
    "protects",
    "surrounds",
    "questions",
    "delays",
    "improves",
    "borrowed",
    "ignored",
    "painted",
    "discovered",
    "sold",
    "moved",
    "opened",
]
MONTHS = ["January", "February", "March", "April", "June", "July", "August", "October", "November"]


def luhn(digits: str) -> str:
    """Return digits with their check digit. Source: ISO/IEC 7812-1."""
    total = 0
    for at, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if at % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return digits + str(-total % 10)


def iban(country: str, account: str) -> str:
    """Return an IBAN with its check digits. Source: ISO 13616."""
    number = int("".join(str(int(each, 36)) for each in account + country + "00"))
    return f"{country}{98 - number % 97:02d}{account}"


def _digits(source: Random, count: int, first: str = string.digits) -> str:
    return source.choice(first) + "".join(source.choices(string.digits, k=count - 1))


def _letters(source: Random, count: int, of: str = string.ascii_letters + string.digits) -> str:
    return "".join(source.choices(of, k=count))


def _email(source: Random) -> str:
    name = f"{source.choice(STEMS)}{source.choice(['.', '_', ''])}{source.choice(ADJECTIVES)}"
    domain = source.choice(("com", "de", "co.uk", "org", "io"))
    return f"{name}{source.randrange(100)}@{source.choice(STEMS)}.{domain}"


def _phone(source: Random) -> str:
    line = source.randrange(1000, 9999)
    a, b, c = (source.randrange(10, 99) for _ in range(3))
    return source.choice(
        (
            f"+1 212-{source.randrange(200, 999)}-{line}",
            f"(415) {source.randrange(200, 999)}-{line}",
            f"+44 20 7{source.randrange(100, 999)} {line}",
            f"+49 30 {source.randrange(200000, 999999)}{source.randrange(10, 99)}",
            f"312.{source.randrange(200, 999)}.{line}",
            f"+33 1 42 {a} {b} {c}",
        )
    )


def _card(source: Random) -> str:
    start = source.choice(("4", "51", "55", "4539"))
    number = luhn(start + _digits(source, 15 - len(start)))
    return source.choice((number, " ".join(number[at : at + 4] for at in range(0, 16, 4))))


def _iban(source: Random) -> str:
    return source.choice(
        (
            iban("DE", _digits(source, 18)),
            iban("GB", "NWBK" + _digits(source, 14)),
            iban("FR", _digits(source, 23)),
            iban("NL", "ABNA" + _digits(source, 10)),
        )
    )


def _ip(source: Random) -> str:
    if source.random() < 0.2:
        return f"2a00:1450:4001:{source.randrange(16, 65535):x}::{source.randrange(1, 65535):x}"
    parts = source.choice((8, 23, 52, 93, 151, 185)), *source.choices(range(1, 255), k=3)
    return ".".join(map(str, parts))


def _national_id(source: Random) -> str:
    kind = source.randrange(5)
    if kind == 0:
        area, group = source.randrange(100, 665), source.randrange(10, 99)
        return f"{area}-{group}-{source.randrange(1000, 9999)}"
    if kind == 1:
        pairs = " ".join(str(source.randrange(10, 99)) for _ in range(3))
        return f"{source.choice('ACEHJ')}{source.choice('ABCEHJ')} {pairs} {source.choice('ABCD')}"
    if kind == 2:
        number = source.randrange(10_000_000, 99_999_999)
        return f"{number}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}"
    if kind == 3:
        digits = [*map(int, _digits(source, 9))]
        check = 11 - sum((10 - at) * digit for at, digit in enumerate(digits)) % 11
        if check == 10:
            return _national_id(source)
        number = "".join(map(str, digits)) + str(check % 11)
        return f"NHS number {number[:3]} {number[3:6]} {number[6:]}"
    year, month, day = source.randrange(50, 99), source.randrange(1, 13), source.randrange(1, 29)
    body = f"{year:02d}{month:02d}{day:02d}{_digits(source, 4)}"
    weights = (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)
    check = -sum(w * int(d) for w, d in zip(weights, body, strict=True)) % 10
    return f"PESEL {body}{check}"


def _crypto(source: Random) -> str:
    addresses = (
        "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2", "3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLy",
        "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa",
    )  # fmt: skip
    return source.choice((*addresses, "0x" + _letters(source, 40, string.hexdigits)))


def _secret(source: Random) -> str:
    upper = string.ascii_uppercase + "234567"
    return source.choice(
        (
            f"AKIA{_letters(source, 16, upper)}",
            f"ghp_{_letters(source, 36)}",
            f"sk-proj-{_letters(source, 40)}",
            f"sk_live_{_letters(source, 24)}",
            f"AIza{_letters(source, 35)}",
            f"hf_{_letters(source, 34)}",
            f"xoxb-{_digits(source, 12)}-{_letters(source, 24)}",
            f"password: {_letters(source, 9)}{source.randrange(10, 99)}",
            f'api_key = "{_letters(source, 28)}7"',
            f"eyJ{_letters(source, 20)}.eyJ{_letters(source, 30)}.{_letters(source, 40)}",
        )
    )


PERSONAL_DATA: dict[Finding, Callable[[Random], str]] = {
    Finding.EMAIL_ADDRESS: _email,
    Finding.PHONE_NUMBER: _phone,
    Finding.CREDIT_CARD: _card,
    Finding.IBAN: _iban,
    Finding.IP_ADDRESS: _ip,
    Finding.NATIONAL_ID: _national_id,
    Finding.CRYPTO_ADDRESS: _crypto,
    Finding.SECRET: _secret,
}


class Writer:
    """A source of random chats in English, with numbers, dates and prices, and no personal data."""

    def __init__(self, seed: int) -> None:
        self.source = Random(seed)
        syllables = [
            "ba",
            "ce",
            "di",
            "fo",
            "gu",
            "ha",
            "ke",
            "li",
            "mo",
            "nu",
            "pa",
            "re",
            "si",
            "to",
            "va",
            "we",
            "zi",
        ]
        coined = {"".join(self.source.choices(syllables, k=3)) for _ in range(1500)}
        self._nouns = [*STEMS, *sorted(coined)]

    def sentence(self, form: str) -> str:
        source = self.source
        words = {
            "noun": lambda: source.choice(self._nouns),
            "adjective": lambda: source.choice(ADJECTIVES),
            "verb": lambda: source.choice(VERBS),
            "month": lambda: source.choice(MONTHS),
            "order": lambda: _digits(source, source.choice((6, 8, 10)), "123456789"),
            "date": lambda: (
                f"{source.randrange(2015, 2026)}-{source.randrange(1, 13):02d}-"
                f"{source.randrange(1, 29):02d}"
            ),
            "count": lambda: str(source.randrange(2, 300)),
            "price": lambda: f"${source.randrange(1, 9000):,}.{source.randrange(100):02d}",
            "version": lambda: ".".join(str(source.randrange(1, 30)) for _ in range(3)),
            "year": lambda: str(source.randrange(1700, 2030)),
            "big": lambda: f"{source.randrange(1000, 9_000_000):,}",
            "time": lambda: f"{source.randrange(24):02d}:{source.randrange(60):02d}",
        }  # fmt: skip
        parts = []
        for literal, name, _, _ in string.Formatter().parse(form):
            parts.append(literal + (words[name]() if name else ""))
        return "".join(parts)

    def text(self, sentences: int) -> str:
        """Return a text with an opening and further sentences."""
        forms = [self.source.choice(OPENINGS)]
        forms += self.source.choices(MIDDLES, k=sentences - 1)
        return " ".join(map(self.sentence, forms))

    def chat(self) -> list[str]:
        """Return a question and an answer."""
        return [self.text(self.source.randint(2, 4)), self.text(self.source.randint(3, 7))]

    def edited(self, texts: list[str], rate: float) -> list[str]:
        """Return texts in which `rate` of the words are replaced, removed or added."""
        return [self._edited(text, rate) for text in texts]

    def _edited(self, text: str, rate: float) -> str:
        words = text.split()
        for at in self.source.sample(range(len(words)), round(rate * len(words))):
            new = self.source.choice(self._nouns)
            words[at] = self.source.choice((new, "", f"{words[at]} {new}"))
        return " ".join(word for word in words if word)

    def with_inserted(self, texts: list[str], planted: str) -> list[str]:
        """Return texts with a sentence that has `planted`, at a random place."""
        sentence = self.source.choice(
            ("You find it under {}, as agreed.", "Please note {} for later.", "It says {} there.",
             "For this, use {} today.")
        ).format(planted)  # fmt: skip
        which = self.source.randrange(len(texts))
        words = texts[which].split(". ")
        words.insert(self.source.randrange(len(words)), sentence.removesuffix("."))
        return [". ".join(words) if at == which else text for at, text in enumerate(texts)]


@dataclass
class Corpus:
    """Lines of a file, and the numbers of those in which something was planted, from 1."""

    lines: list[bytes] = field(default_factory=list)
    duplicates: dict[float, set[int]] = field(default_factory=dict)
    leaks: dict[float, set[int]] = field(default_factory=dict)
    personal: dict[Finding, set[int]] = field(default_factory=dict)

    def add(self, texts: list[str]) -> int:
        self.lines.append(line_of(texts))
        return len(self.lines)

    def content(self) -> bytes:
        return b"".join(line + b"\n" for line in self.lines)


def line_of(texts: list[str]) -> bytes:
    """Return the JSON line of a chat with a system prompt that all chats share."""
    question, answer = texts
    messages = [
        {"role": "system", "content": "You are the assistant of a shop. Answer in full sentences."},
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    return json.dumps({"messages": messages}, separators=(",", ":")).encode()


def planted(examples: int, each: int, seed: int = 7) -> tuple[Corpus, Corpus]:
    """Return a training corpus and a validation corpus.

    The training corpus has `examples` clean chats, `each` edited copies of them for each edit rate,
    `each` edited copies of validation chats for each rate, and `each` chats for each kind of
    personal data. Chats share sentences' forms and words, and one in ten shares half of its
    sentences with another, so that different chats are similar too.
    """
    writer = Writer(seed)
    source = writer.source
    train, validation = Corpus(), Corpus()
    held = [writer.chat() for _ in range(max(50, examples // 10))]
    for texts in held:
        validation.add(texts)
    clean = [writer.chat() for _ in range(examples)]
    for at in range(0, examples - 1, 10):  # half of another chat, which is no duplicate
        clean[at] = [clean[at + 1][0], writer.text(6)]
    entries: list[tuple[str, object, list[str]]] = [("clean", None, texts) for texts in clean]
    for kind, make in PERSONAL_DATA.items():
        for _ in range(each):
            entries.append(("personal", kind, writer.with_inserted(writer.chat(), make(source))))
    for rate in EDIT_RATES:
        for texts in source.sample(held, min(each, len(held))):
            entries.append(("leak", rate, writer.edited(texts, rate)))
    source.shuffle(entries)
    for what, of, texts in entries:
        number = train.add(texts)
        if what == "personal":
            train.personal.setdefault(of, set()).add(number)  # type: ignore[arg-type]
        elif what == "leak":
            train.leaks.setdefault(of, set()).add(number)  # type: ignore[arg-type]
    for rate in EDIT_RATES:  # after their originals, which are the ones to keep
        for texts in source.sample(clean, each):
            number = train.add(writer.edited(texts, rate))
            train.duplicates.setdefault(rate, set()).add(number)
    return train, validation
