"""Code in several languages, and lines of logs, with the personal data in them marked.

Most numbers and colons in them look like personal data and are none: slices, scopes, versions,
times, UUIDs, hashes, and identifiers with as many digits as a phone number.
"""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Callable
from typing import NamedTuple

from domain.datasets.findings import Finding

SLOT = re.compile(r"<(\w+)>")


class Labelled(NamedTuple):
    """A text, and the start, end and kind of each part that is personal data."""

    text: str
    spans: frozenset[tuple[int, int, Finding]]

    def covered_by(self, span: tuple[int, int, Finding]) -> bool:
        """Return True if a span covers one that is marked, perhaps with the prefix of a network."""
        start, end, kind = span
        return any(k == kind and start <= s and e <= end <= e + 3 for s, e, k in self.spans)


CODE = (
    # Python
    "def every_other(l):\n    return l[::<digit>] + l[<digit>::<digit>] + l[::-1]\n",
    "a[1::2, ::3] = b[a::b]; print(f'{x:>10}::{y}')\nrows = data[abc::2][::10]\n",
    "x = tensor[..., ::2, 1::2].reshape(-1, <number>, 3)\nassert l[dead::beef] == fa[ce::cafe]\n",
    "start = datetime(2024, 1, 2, 12, 30, 45)\nassert str(start) == '<datetime>'\n",
    "ID = uuid.UUID('<uuid>')\nSHA = '<sha>'\nwidth = <number>\nHOST = '<private>'\n",
    "numpy==<version>\nrequests>=<version>,<3\nfoo @ https://example.invalid/foo-<version>.tar.gz\n",
    '__version__ = "<version>"\nassert parse("<version>") < parse("<version>")\n',
    # JavaScript, CSS
    "a::before { content: '\\2014'; } li::after { width: 2px; } .fade::cue { color: #facade; }\n",
    "const t = new Date(<epoch>).toISOString(); // <datetime>\nconst ua = 'Chrome/<version>';\n",
    '{"dependencies": {"left-pad": "<version>", "x": "^<version>"}, "port": <number>}\n',
    "if (ip.match(/^\\d+\\.\\d+\\.\\d+\\.\\d+$/)) connect('<private>', <number>);\n",
    # C++, Rust, Ruby, Perl, Haskell
    "std::vector<std::pair<int, double>> v; a::b::c(de::fa(1)); face::Face::add(::f);\n",
    "use std::io::{self, Read}; let x = dead::beef::<u8>(0xdeadbeef); Bad::Cafe::default()\n",
    "long id = <long>L; char *p = (char *) 0x7fff<hex8>; add::cab(<number>);\n",
    "Foo::Bar.new(a: 1, b::c => 2); Net::HTTP.get('<private>', '/')\nA::B::C.each { |x| ab::de }\n",
    "f :: Int -> Int\nf = (+ 1)\ng::a -> b\ndeaf::[Int]\n",
    # Java, Go, SQL, YAML, shell
    'String oid = "1.3.6.1.4.1.<number>.2.1"; // OID\nlong serial = <long>L;\n',
    'addr := net.ParseIP("<private>")\nmask := net.IPv4(255, 255, 255, 0) // 255.255.255.0\n',
    "SELECT x::int, y::date, <epoch>::bigint FROM t WHERE at > '<datetime>' LIMIT <number>;\n",
    "image: registry.invalid/app:<version>\nports: ['<number>:<number>']\nbind: 0.0.0.0:8080\n",
    "apt-get install -y libfoo=<version>-1 && pip install bar~=<version>  # see 4.2.1.3\n",
    "ssh-keygen -lf key  # MD5:<fingerprint>\nip link set eth0 address <mac>\n",
    "  <AssemblyVersion>1.0.0.0</AssemblyVersion>\n<PackageReference Version='<version>' />\n",
    '// Section 3.4.<digit>.<digit> of the standard\n#define VERSION "<version>"\n',
    # With personal data
    'client.connect("<IP_ADDRESS>", <number>)  # the office\n',
    "ssh root@<IP_ADDRESS>\nexport PEER=<IP_ADDRESS>\nALLOW = ['<IP_ADDRESS>/32']\n",
    'bind("<IPV6>"); peers[::2] = ["[<IPV6>]:443"]\n',
    '# Author: <EMAIL_ADDRESS>\n__version__ = "<version>"\n',
)

LOGS = (
    "<datetime> INFO  [worker-<digit>] started in <number> ms, version <version>",
    "<datetime> DEBUG request <uuid> took 12:30:45.<number> (build <version>)",
    "<clock> kernel: usb <digit>-1.<digit>: new device <mac>, driver version <version>",
    "<epoch>.123 [main] commit <sha> by bot, 12:30:45",
    "<datetime> ERROR order <long> failed: code <number>, trace 0x<hex8>",
    '<private> - - [02/Jan/2024:12:30:45 +0000] "GET /v/<version> HTTP/1.1" 200 <number>',
    "<clock> postgres[<number>]: LOG: checkpoint complete: wrote <number> buffers; lsn=2F/<hex8>",
    "<datetime> pip: Downloading foo-<version>-py3.whl; upgraded from <version> to <version>",
    '<datetime> agent "Mozilla/5.0 (X11; Linux) Chrome/<version> Safari/537.36" <number>',
    "<datetime> node <hex8>::<hex4> ready; shard a::b; cache::fetch <number>",
    "<datetime> firmware <version> installed on device <long> at <clock>",
    "<datetime> listening on [::]:<number> and 0.0.0.0:<number>, loopback ::1 and 127.0.0.1",
    "<datetime> span=<hex16> trace=<hex16><hex16> duration=<number>us seq=<long>",
    '<IP_ADDRESS> - - [02/Jan/2024:12:30:45 +0000] "GET / HTTP/1.1" 200 <number>',
    "<datetime> sshd[<number>]: Failed password for root from <IP_ADDRESS> port <number> ssh2",
    "<datetime> accepted client=/<IP_ADDRESS>:<number> id=<uuid>",
    "<datetime> peer <IPV6> connected, protocol <version>",
    "<datetime> blocked <IP_ADDRESS>, <IP_ADDRESS>. Agent Chrome/<version>",
    "<datetime> mail from=<EMAIL_ADDRESS> status=sent delay=12:30:45",
)
"""The first lines have no personal data, and the last six have some."""


def technical(seed: int, code: int, logs: int) -> list[Labelled]:
    """Return texts of code, and then one text for each line of logs."""
    random_ = random.Random(seed)
    chosen = [CODE[n % len(CODE)] for n in range(code)] + [LOGS[n % len(LOGS)] for n in range(logs)]
    return [_filled(template, random_) for template in chosen]


def _filled(template: str, random_: random.Random) -> Labelled:
    text, spans, at = "", set[tuple[int, int, Finding]](), 0
    for slot in SLOT.finditer(template):
        name = slot[1]
        text += template[at : slot.start()]
        at = slot.end()
        if name not in WRITERS:
            text += slot[0]
            continue
        value = WRITERS[name](random_)
        if name.isupper() or name == "IPV6":
            kind = Finding.IP_ADDRESS if name == "IPV6" else Finding[name]
            spans.add((len(text), len(text) + len(value), kind))
        text += value
    return Labelled(text + template[at:], frozenset(spans))


def _hex(characters: int) -> Callable[[random.Random], str]:
    return lambda r: f"{r.getrandbits(4 * characters):0{characters}x}"


def _version(r: random.Random) -> str:
    """Return a version with four parts, each of which could be that of an address."""
    return ".".join(str(r.choice((0, 1, 2, 3, 5, 10, 12, 20, 47, 99, 120))) for _ in range(4))


def _ip(r: random.Random) -> str:
    first = r.choice((5, 31, 46, 62, 77, 81, 88, 93, 145, 178, 212))
    return f"{first}.{r.randrange(256)}.{r.randrange(256)}.{r.randrange(1, 255)}"


def _ipv6(r: random.Random) -> str:
    groups = ":".join(f"{r.getrandbits(16):x}" for _ in range(r.choice((1, 4))))
    network = f"2a0{r.randrange(1, 9)}:{r.randrange(0x100, 0xFFFF):x}:{r.randrange(1, 0xFFFF):x}"
    return f"{network}::{groups}"


def _datetime(r: random.Random) -> str:
    return f"2024-{r.randrange(1, 13):02}-{r.randrange(1, 29):02}T{_clock(r)}"


def _clock(r: random.Random) -> str:
    return f"{r.randrange(24):02}:{r.randrange(60):02}:{r.randrange(60):02}"


WRITERS: dict[str, Callable[[random.Random], str]] = {
    "digit": lambda r: str(r.randrange(1, 10)),
    "number": lambda r: str(r.randrange(100, 99_999)),
    "long": lambda r: str(r.randrange(10**9, 10**12)),
    "epoch": lambda r: str(r.randrange(1_600_000_000, 1_800_000_000)),
    "version": _version,
    "datetime": _datetime,
    "clock": _clock,
    "uuid": lambda r: str(uuid.UUID(int=r.getrandbits(128), version=4)),
    "sha": _hex(40),
    "hex4": _hex(4),
    "hex8": _hex(8),
    "hex16": _hex(16),
    "mac": lambda r: ":".join(f"{r.getrandbits(8):02x}" for _ in range(6)),
    "fingerprint": lambda r: ":".join(f"{r.getrandbits(8):02x}" for _ in range(16)),
    "private": lambda r: f"192.168.{r.randrange(256)}.{r.randrange(1, 255)}",
    "IP_ADDRESS": _ip,
    "IPV6": _ipv6,
    "EMAIL_ADDRESS": lambda r: (
        f"{r.choice(('anna', 'li.wei', 'omar'))}@example{r.randrange(99)}.com"
    ),
}
