"""Disk URLs, and the rules that say which servers an agent may be sent to."""

from __future__ import annotations

import pytest

from holdfast_agent.errors import DiskUrlInvalid
from holdfast_agent.model.disk_access import DiskAccess, access_to
from holdfast_agent.model.disk_url import parse_disk_url
from holdfast_agent.model.server_rules import parse_server_rule


@pytest.mark.parametrize(
    "url",
    [
        "file:/a%20b",
        "image:/a?format=vmdk",
        "nbd+unix:/s?bitmap=b&export=e%2Ff",
        "nbd://host",
        "nbds://[fd00::1]:10810?export=disk",
        "https://esx1.example.com/folder/vm/disk-flat.vmdk?dcPath=ha-datacenter&dsName=a%20b",
        "http://127.0.0.1:8080/",
        "block:/dev/disk/by-id/wwn-0x6000c29?wait=30",
        "vddk://vcenter/%5Bstore%201%5D%20web/web.vmdk?snapshot=snapshot-2&transports=nbdssl%3Anbd&vm=vm-1",
    ],
)
def test_a_normal_form_stays_as_it_is(url: str) -> None:
    assert str(parse_disk_url(url)) == url


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("nbd://HOST:10809", "nbd://host"),
        ("nbd://host/?export=x", "nbd://host?export=x"),
        ("https://Host:443/A", "https://host/A"),
        ("file:/a//b/./c", "file:/a/b/c"),
    ],
)
def test_other_forms(url: str, normal: str) -> None:
    assert str(parse_disk_url(url)) == normal


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://host/x",
        "nbd:host",
        "nbd://",
        "nbd://host:0",
        "nbd://host:65536",
        "nbd://ho st",
        "nbd://host/export",
        "nbd://host?format=raw",
        f"nbd://host?export={'x' * 1025}",
        "nbd+unix:socket",
        "https://host",
        "https:///path",
        "https://host/a b",
        "https://host/a\r\nCookie: x",
        "https://host/a#b",
        "https://host/\xe9",
        "file:relative",
        "block:/dev/sda?wait=121",
        "block:/dev/sda?wait=-1",
        "file:/a?wait=1",
        "vddk://host",
        "vddk://host/a?vm=a%0Ab",
        "vddk://host/a?vm=",
        "vddk://host/a?transports=nfs",
        "vddk://host/../a",
        "file:/a/../b",
        "file:/a%00b",
    ],
)
def test_bad_urls(url: str) -> None:
    with pytest.raises(DiskUrlInvalid):
        parse_disk_url(url)


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(DiskUrlInvalid) as caught:
        parse_disk_url("https://me:secret@host/disk")
    assert "secret" not in str(caught.value)
    assert "secret" not in str(caught.value.to_record())


@pytest.mark.parametrize(
    ("rule", "url", "covers"),
    [
        ("https://host", "https://host/x", True),
        ("https://host", "https://host:8443/x", True),
        ("https://host:443", "https://host/x", True),
        ("https://host:443", "https://host:8443/x", False),
        ("https://host", "http://host/x", False),
        ("https://host", "https://host.evil.example/x", False),
        ("https://HOST", "https://host/x", True),
        ("nbds://10.0.0.0/24", "nbds://10.0.0.7", True),
        ("nbds://10.0.0.0/24", "nbds://10.0.1.7", False),
        ("nbds://10.0.0.0/24", "nbd://10.0.0.7", False),
        ("nbds://10.0.0.0/24", "nbds://host", False),
        ("nbd://10.0.0.7:10809", "nbd://10.0.0.7", True),
        ("nbd://[fd00::/8]:10809", "nbd://[fd00::7]", True),
        ("nbd://[fd00::/8]", "nbd://[fe80::7]", False),
        ("nbd://0.0.0.0/0", "nbd://8.8.8.8", True),
    ],
)
def test_server_rules(rule: str, url: str, covers: bool) -> None:
    assert parse_server_rule(rule).covers(parse_disk_url(url)) is covers


@pytest.mark.parametrize(
    "rule", ["", "host", "file://host", "nbd://", "nbd://host:0", "nbd://10.0.0.1/24", "https://*"]
)
def test_bad_server_rules(rule: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_server_rule(rule)


def test_secrets_are_found_by_origin() -> None:
    one, other = DiskAccess(origin="https://host", cookie="a"), DiskAccess(origin="https://host:8443", cookie="b")
    assert access_to(parse_disk_url("https://host:443/x"), [other, one]) == one
    assert access_to(parse_disk_url("http://host/x"), [one, other]) == DiskAccess(origin="http://host")
    assert "cookie" not in repr(one)
