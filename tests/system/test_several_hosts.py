"""Proxy, repository and manager on hosts of their own: what one machine does alone must also go over a network."""

from __future__ import annotations

import random
from pathlib import Path

from lab.contents import assert_same
from lab.estate import estate

MIB = 1 << 20


def test_a_disk_goes_over_the_network_and_comes_back(tmp_path: Path) -> None:
    content = random.Random(5).randbytes(4 * MIB)
    with estate(tmp_path, {"proxy": "proxy", "vault": "repository"}) as house:
        (house.vms / "web").mkdir()
        (house.vms / "web" / "disk.raw").write_bytes(content)
        house.add_plain_repository("main", "vault")
        house.add_job("web", "--compression", "none", repository="main", include="web")
        vault = house.hosts["vault"]
        before = vault.received_bytes()

        report = house.run_job("web")

        assert vault.received_bytes() - before > 4 * MIB, "the data did not go over the network"
        house.restore_disk("web", report["points"][0]["sid"], house.out / "disk.raw")
        assert_same((house.out / "disk.raw").read_bytes(), content)
