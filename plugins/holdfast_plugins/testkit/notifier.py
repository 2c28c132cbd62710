"""The conformance suite of notifiers: a notice arrives whole, or it is told in time that it has not."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager

import msgspec
import pytest

from holdfast_agent.errors import NotDelivered, NoticeRefused
from holdfast_plugins.api import Notice, Notifier, Severity

NOTICE = Notice(
    key="suite-1", severity=Severity.WARNING, session=4711, kind="backup", job="nightly", result="warning",
    host="vault", started=1_800_000_000.0, ended=1_800_000_060.0, subject="nightly: session 4711 has a warning",
    text="Büro: 1 of 2 VMs has a warning\n", html="<!doctype html><p>B&uuml;ro: 1 of 2 VMs has a warning</p>",
    facts={"id": 4711, "result": "warning"},
)  # fmt: skip
"""What arrives may say it in any form, but it names the session, 4711, which stands in subject and facts."""
EVIL = "web\r\nBcc: all@example.com\r\n\r\n.\r\n<script>alert(1)</script> \x00\x1b[2J é"
_PATIENCE_S = 3.0
_AT_MOST_S = 60.0


class NotifierLab(ABC):
    """A real receiver, made anew for each test. Nothing here may use the notifier under test."""

    secrets: tuple[str, ...] = ()
    """What must never be seen in an error: the credentials in use, in plain text."""

    @abstractmethod
    def notifier(self) -> Notifier:
        """A new notifier for the receiver, made as the registered factory makes it."""

    @abstractmethod
    def received(self) -> Sequence[str]:
        """What has arrived, one text for each message, the oldest first."""

    @abstractmethod
    def away(self) -> AbstractContextManager[Notifier]:
        """While entered there is no receiver; the notifier for the place where it was."""

    def silent(self) -> AbstractContextManager[Notifier] | None:
        """While entered a receiver takes connections and says nothing; None where that cannot be told from success."""
        return None


class NotifierConformance:
    """Subclass it in a test file and give a fixture ``lab`` that makes a :class:`NotifierLab`."""

    def test_a_notice_arrives(self, lab: NotifierLab) -> None:
        lab.notifier().send(NOTICE, _AT_MOST_S)
        (message,) = lab.received()
        assert "4711" in message

    def test_each_notice_is_one_message(self, lab: NotifierLab) -> None:
        """The same notice again may be one more: its receiver knows it by its key."""
        for number in range(3):
            lab.notifier().send(msgspec.structs.replace(NOTICE, key=f"suite-{number}"), _AT_MOST_S)
        assert len(lab.received()) == 3

    def test_a_receiver_that_is_away_is_told(self, lab: NotifierLab) -> None:
        with lab.away() as notifier, pytest.raises(NotDelivered) as caught:
            notifier.send(NOTICE, _AT_MOST_S)
        assert caught.value.retryable, "it may be there again later"
        assert not any(secret in str(caught.value) for secret in lab.secrets)

    def test_a_receiver_that_says_nothing_is_given_up(self, lab: NotifierLab) -> None:
        silent = lab.silent()
        if silent is None:
            pytest.skip("a receiver that says nothing has taken it")
        with silent as notifier:
            outcome = _sent(notifier, _PATIENCE_S)
        assert isinstance(outcome, NotDelivered), f"{outcome!r}: it does not end by itself"

    def test_names_that_are_meant_to_do_harm_make_one_message(self, lab: NotifierLab) -> None:
        """They come from hypervisors: no second message, no other receiver, no answer that is no error of Holdfast."""
        evil = msgspec.structs.replace(
            NOTICE, job=EVIL, result=EVIL, text=EVIL, html=f"<p>{EVIL}</p>", facts={"id": 4711, EVIL: EVIL}
        )
        try:
            lab.notifier().send(evil, _AT_MOST_S)
        except NoticeRefused:
            assert not lab.received()
        else:
            assert len(lab.received()) == 1

    def test_a_long_report_arrives_or_is_refused(self, lab: NotifierLab) -> None:
        """Of a session with ten thousand VMs."""
        rows = "".join(f"vm-{number:05} is backed up\n" for number in range(10_000))
        facts = {"id": 4711, "vms": [f"vm-{number}" for number in range(10_000)]}
        long = msgspec.structs.replace(NOTICE, text=rows, html=f"<pre>{rows}</pre>", facts=facts)
        try:
            lab.notifier().send(long, _AT_MOST_S)
        except NoticeRefused:
            assert not lab.received()
        else:
            assert len(lab.received()) == 1

    def test_what_it_raises_is_typed(self, lab: NotifierLab) -> None:
        with lab.away() as notifier:
            outcome = _sent(notifier, _PATIENCE_S)
        assert isinstance(outcome, NotDelivered | NoticeRefused), f"{outcome!r} is none of the errors of notifiers"
        assert outcome.text.strip()


def _sent(notifier: Notifier, timeout_s: float) -> BaseException | None:
    """What sending came to; it is left behind if it does not come back long after its time."""
    outcome: list[BaseException | None] = []

    def send() -> None:
        try:
            notifier.send(NOTICE, timeout_s)
            outcome.append(None)
        except Exception as error:  # noqa: BLE001 (the test looks at what it is)
            outcome.append(error)

    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    sending.join(_AT_MOST_S)
    assert outcome, f"it has not come back after {_AT_MOST_S:.0f} s, and was given {timeout_s:.0f}"
    return outcome[0]
