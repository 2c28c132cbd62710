"""`holdfast verify boot`: a real guest out of an encrypted repository, and one that cannot boot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import guest as lab
from lab.installation import Installation, installed

pytestmark = pytest.mark.timeout(240)  # the first test of a fresh checkout builds the guest

PNG = b"\x89PNG"
EMULATED = ("--emulate",)  # what every machine has


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Points of a guest that boots by itself, "good.img", and of a disk with nothing to boot from, "blank.img"."""
    image = lab.build(lab.PLAIN)
    with installed(tmp_path_factory.mktemp("house")) as house:
        lab.copy_disk(image.disk, lab.Disk(house.vms / "good.img"))
        (house.vms / "blank.img").write_bytes(bytes(1 << 20) + b"no boot sector" * 1000 + bytes(1 << 20))
        house.add_repository("main", encrypted=True)
        house.add_job("nightly", repository="main", include="*")
        house.run_job("nightly")
        yield house


def picture(house: Installation, vm: str) -> Path:
    return house.home / "manager" / "proofs" / f"{house.points(vm)[0]['sid']}.png"


def test_a_guest_that_comes_up_proves_its_point(house: Installation) -> None:
    before = (house.vms / "good.img").stat().st_mtime_ns
    report = house.holdfast("verify", "boot", "--vm", "good.img", "--point", "latest", "--memory", "192MiB", *EMULATED)
    assert report["result"] == "success"
    boot = house.points("good.img")[0]["boot"]
    assert (boot["proved"], boot["reason"], boot["session"]) == (True, "its guest agent answered", report["id"])
    assert boot["picture"] == str(picture(house, "good.img"))
    assert "its guest agent answered after" in str(report["disks"][0]["reason"])
    assert picture(house, "good.img").read_bytes().startswith(PNG)
    assert list((house.home / "agent" / "exports").glob("*/*")) == []
    assert list((house.home / "agent" / "run").iterdir()) == []
    assert (house.vms / "good.img").stat().st_mtime_ns == before


def test_what_does_not_come_up_in_time_is_told_with_its_screen(house: Installation) -> None:
    options = (
        "--vm",
        "blank.img",
        "--point",
        "latest",
        "--memory",
        "64MiB",
        "--timeout",
        "4s",
        "--console",
        "login:",
        *EMULATED,
    )
    report = house.holdfast("verify", "boot", *options, expect=14)
    assert "did not come up within 4 s" in report["error"]["message"]
    (point,) = house.points("blank.img")
    assert not point["boot"]["proved"]
    assert point["booted"] is None
    assert picture(house, "blank.img").read_bytes().startswith(PNG)
    assert list((house.home / "agent" / "exports").glob("*/*")) == []


def test_a_job_proves_each_new_point(house: Installation) -> None:
    """One that comes up, and one that does not, which the session warns of; the backup itself is whole either way."""
    boot = ("--verify-boot", "--boot-memory", "192MiB", "--boot-emulate", "--boot-timeout")
    house.add_job("proving", *boot, "100s", repository="main", include="good.img")
    report = house.run_job("proving")
    assert report["result"] == "success"
    point = house.points("good.img")[0]
    assert point["boot"]["proved"]
    assert point["session"] == report["id"]
    house.holdfast("job", "edit", "proving", "--include", "blank.img", "--boot-timeout", "2s")
    report = house.run_job("proving")
    assert report["result"] == "warning"
    assert any("was not proven to boot" in problem["message"] for problem in report["problems"])
    assert house.points("blank.img")[0]["boot"]["session"] == report["id"] + 1


def test_a_command_in_the_guest_is_the_proof_that_it_serves(house: Installation) -> None:
    """Its first look is too early, as with a service that takes its time."""
    boot = ("verify", "boot", "--vm", "good.img", "--point", "latest", "--memory", "192MiB", *EMULATED, "--command")
    report = house.holdfast(*boot, "test -e /tmp/second || { touch /tmp/second; exit 1; }")
    assert report["result"] == "success"
    assert "ended with 0 in it" in house.points("good.img")[0]["boot"]["reason"]
    house.holdfast(*boot, "true", "--console", "login:", expect=2)
