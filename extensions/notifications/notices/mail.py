"""The mails of notices: plain text, with links that work without sign-in."""

from __future__ import annotations

from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate

from extensions.notifications.domain.kind import NoticeKind
from extensions.notifications.domain.link import LinkPurpose
from extensions.notifications.domain.message import Data
from extensions.notifications.domain.wording import Text, combined, text_of
from extensions.notifications.notices.tables import Mail, NoticeAddress


@dataclass(frozen=True)
class Letterhead:
    """The sender's address, and the public URL of EcoLink."""

    sender: str
    origin: str

    def write(self, mail: Mail) -> EmailMessage:
        """Return a mail with all its notices. Raise ValueError for a line break in a header."""
        address = mail.address
        text = combined([self._text(address, each.kind, dict(each.data)) for each in mail.notices])
        written = EmailMessage()
        written["From"] = f"EcoLink <{self.sender}>"
        written["To"] = address.email
        written["Subject"] = f"EcoLink: {text.subject}"
        written["Date"] = formatdate()
        domain = self.sender.rpartition("@")[2]
        written["Message-ID"] = f"<notice-{mail.notices[0].id}-{address.id.hex}@{domain}>"
        written["Auto-Submitted"] = "auto-generated"
        if mail.notices[0].kind is NoticeKind.CONFIRMATION:
            written.set_content(f"{text.body}\n")
            return written
        unsubscribe = self._link(address, LinkPurpose.UNSUBSCRIBE)
        written["List-Unsubscribe"] = f"<{unsubscribe}>"
        written["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"  # RFC 8058
        written.set_content(
            f"{text.body}\n\n"
            "-- \n"
            f"To choose which notices you receive: {self.origin}/notices\n"
            f"To receive none: {unsubscribe}\n"
        )
        return written

    def _text(self, address: NoticeAddress, kind: NoticeKind, data: Data) -> Text:
        if kind is NoticeKind.CONFIRMATION:
            data["link"] = self._link(address, LinkPurpose.CONFIRM)
        return text_of(kind, data, self.origin)

    def _link(self, address: NoticeAddress, purpose: LinkPurpose) -> str:
        return f"{self.origin}/notices/{purpose}/{address.signer.token(purpose)}"
