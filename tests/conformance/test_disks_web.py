"""Raw images on a real web server: files that change, logins, and servers that give no ranges."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from holdfast_agent.disks.open import open_disk, open_target
from holdfast_agent.errors import (
    DiskChanged,
    DiskDenied,
    DiskExists,
    DiskNotFound,
    DiskServerDenied,
    DiskUnreadable,
)
from holdfast_agent.model.disk_access import DiskAccess
from lab.disk_suite import SIZE
from lab.disks import host_for, raw_image
from lab.nginx import nginx


def _replaced(image: Path) -> None:
    other = image.with_name("new")
    other.write_bytes(bytes(SIZE))
    os.utime(other, (1, 1))
    other.replace(image)


def _cut(image: Path) -> None:
    os.truncate(image, 1 << 20)


@pytest.mark.parametrize("change", [_replaced, _cut])
def test_a_file_that_changes_is_noticed_by_the_next_read(tmp_path: Path, change: Callable[[Path], None]) -> None:
    image = raw_image(tmp_path / "disk")
    with nginx(tmp_path / "nginx", tmp_path) as port:
        origin = f"http://127.0.0.1:{port}"
        with closing(open_disk(f"{origin}/disk", host_for(tmp_path, origin))) as disk:
            disk.read_into(0, memoryview(bytearray(4096)))
            change(image)
            with pytest.raises(DiskChanged):
                disk.read_into(4096, memoryview(bytearray(4096)))


def test_logins(tmp_path: Path) -> None:
    raw_image(tmp_path / "disk")
    (tmp_path / "users").write_text("me:{PLAIN}secret\n")
    more = f"""auth_basic "disks"; auth_basic_user_file {tmp_path}/users;
        location /cookie {{ auth_basic off; alias {tmp_path}/disk; if ($cookie_session != "abc") {{ return 403; }} }}"""
    with nginx(tmp_path / "nginx", tmp_path, more=more) as port:
        origin = f"http://127.0.0.1:{port}"
        host = host_for(tmp_path, origin)
        for path, access in (
            ("disk", DiskAccess(origin=origin, user="me", password="secret")),  # noqa: S106
            ("cookie", DiskAccess(origin=origin, cookie="session=abc")),
        ):
            with closing(open_disk(f"{origin}/{path}", host, [access])) as disk:
                assert disk.size_bytes == SIZE
            with pytest.raises(DiskDenied, match=r"40[13]"):
                open_disk(f"{origin}/{path}", host)


def test_what_cannot_be_read_by_ranges_or_is_not_there(tmp_path: Path) -> None:
    raw_image(tmp_path / "disk")
    with nginx(tmp_path / "nginx", tmp_path, more="max_ranges 0;") as port:
        origin = f"http://127.0.0.1:{port}"
        host = host_for(tmp_path, origin)
        with pytest.raises(DiskUnreadable, match="no ranges"):
            open_disk(f"{origin}/disk", host)
        with pytest.raises(DiskNotFound):
            open_disk(f"{origin}/absent", host)
        with pytest.raises(DiskServerDenied):
            open_disk(f"{origin}/disk", host_for(tmp_path, "https://127.0.0.1"))
        with pytest.raises(DiskServerDenied):
            open_target(f"{origin}/disk", host_for(tmp_path), SIZE, create=False, overwrite=True)


def test_a_new_file_is_not_put_over_another_and_an_old_one_must_be_there(tmp_path: Path) -> None:
    raw_image(tmp_path / "disk")
    with nginx(tmp_path / "nginx", tmp_path, more="dav_methods PUT;") as port:
        origin = f"http://127.0.0.1:{port}"
        host = host_for(tmp_path, origin)
        with pytest.raises(DiskExists):
            open_target(f"{origin}/disk", host, 512, create=True, overwrite=False)
        with pytest.raises(DiskNotFound):
            open_target(f"{origin}/new", host, 512, create=False, overwrite=False)
        for name, overwrite in (("new", False), ("disk", True)):
            target = open_target(f"{origin}/{name}", host, 512, create=True, overwrite=overwrite)
            target.write(0, b"restored")
            assert name == "disk" or not (tmp_path / name).exists()
            target.finish()
            assert (tmp_path / name).read_bytes() == b"restored".ljust(512, b"\0")
