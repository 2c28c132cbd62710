"""A manager with its web console as people have it: a service, users, and browsers that are programs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import requests

from holdfast_manager.rights.roles import Role
from holdfast_manager.rights.values import UserEntry
from lab.installation import Installation
from lab.ports import free_port
from lab.services import Service, catalogue, service
from lab.waiting import wait_until

PASSWORD = "a password for tests"  # noqa: S105 - it is one of the tests alone
USERS = {role.value: role for role in Role}
"""One user for each role, called after it."""


class Visitor(requests.Session):
    """A browser without scripts. Trusts the console's own certificate and no other."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.verify = str(site.certificate)
        self.trust_env = False
        self._url = site.url

    def request(self, method: str, url: str, *arguments: Any, **keywords: Any) -> requests.Response:  # type: ignore[override] # paths of the console
        """``url``: a path. Follows no redirections."""
        keywords |= {"allow_redirects": False, "timeout": 60}
        return super().request(method, f"{self._url}{url}", *arguments, **keywords)

    def login(self, name: str, password: str = PASSWORD) -> requests.Response:
        """Fill in the form."""
        return self.send_form("/login", "/login", name=name, password=password)

    def send_form(self, page: str, action: str, /, **fields: str) -> requests.Response:
        """Send a form of a page, with what is hidden in it."""
        return self.post(action, data={"csrf": self.csrf(page), **fields})

    def csrf(self, page: str) -> str:
        """What the forms of a page send along."""
        found = re.search('name="csrf" value="([^"]+)"', self.get(page).text)
        assert found is not None, f"{page} has no form"
        return found[1]

    def text(self, page: str) -> str:
        """What is to be read on a page."""
        answer = self.get(page)
        assert answer.status_code == 200, f"{page}: {answer.status_code} {answer.text}"
        return unescape(re.sub("<[^>]*>", " ", answer.text))


class Site:
    """The console of an installation."""

    def __init__(self, house: Installation, port: int) -> None:
        self.house = house
        self.url = f"https://127.0.0.1:{port}"
        self.port = port
        self.certificate = house.home / "manager" / "console" / "certificate.pem"

    def visitor(self, name: str = "") -> Visitor:
        """Logged in as one of ``USERS``, unless nameless."""
        made = Visitor(self)
        if name:
            assert made.login(name).status_code == 303
        return made

    def answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self.visitor().get("/login").status_code == 200
        return False


def with_console(house: Installation) -> Site:
    """Configure the console, and add the users."""
    port = free_port()
    with house.manager_config.open("a") as file:
        file.write(f'[console]\nlisten = "127.0.0.1:{port}"\n')
    with catalogue(house) as catalog:
        for name, role in USERS.items():
            catalog.users.add(UserEntry(name=name, roles=(role,)), PASSWORD)
    return Site(house, port)


@contextlib.contextmanager
def served(site: Site) -> Iterator[Service]:
    """A service whose console answers."""
    with service(site.house) as running:
        wait_until(site.answers, "the console")
        yield running


def image_of(folder: Path, name: str, content: bytes) -> Path:
    """A VM with one raw disk."""
    disk = folder / name / "disk.raw"
    disk.parent.mkdir()
    disk.write_bytes(content)
    return disk
