"""Proxy, repository and manager on hosts of their own: what one machine does alone must also go over a network."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from lab.contents import assert_same
from lab.estate import Estate, estate

MIB = 1 << 20


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    with estate(tmp_path_factory.mktemp("house"), {"proxy": "proxy", "vault": "repository"}) as made:
        made.add_plain_repository("main", "vault")
        yield made


def _vm(house: Estate, name: str, mib: int) -> bytes:
    content = random.Random(name).randbytes(mib * MIB)
    (house.vms / name).mkdir()
    (house.vms / name / "disk.raw").write_bytes(content)
    house.add_job(name, "--compression", "none", repository="main", include=name)
    return content


def test_a_disk_goes_over_the_network_and_comes_back(house: Estate) -> None:
    content = _vm(house, "web", 4)
    vault = house.hosts["vault"]
    before = vault.received_bytes()

    report = house.run_job("web")

    assert vault.received_bytes() - before > 4 * MIB, "the data did not go over the network"
    house.restore_disk("web", report["points"][0]["sid"], house.out / "disk.raw")
    assert_same((house.out / "disk.raw").read_bytes(), content)


@pytest.mark.parametrize("mib", [24, 3], ids=["more than a window", "less than a window"])
def test_on_a_thin_line_the_network_is_the_bottleneck_and_the_benchmark_says_so_beforehand(
    house: Estate, mib: int
) -> None:
    """Its prediction is compared with a real job of the same pair, over a line whose rate is known to both."""
    rate = mib * MIB
    _vm(house, f"thin-{mib}", mib)
    disk = house.vms / f"thin-{mib}" / "disk.raw"
    house.hosts["proxy"].slow(rate)
    try:
        told = house.holdfast(
            "benchmark", "proxy", "main", "--disk", f"file:{disk}", "--size", "1 GiB", "--compression", "none"
        )["prediction"]
        job = house.run_job(f"thin-{mib}")
    finally:
        house.hosts["proxy"].heal()
    assert told["bottleneck_full"] == job["bottleneck"] == "network", (told, job["load"])
    counters = job["total"]
    assert counters["stages"]["network_s"] > 0.6 * counters["elapsed_s"]
    predicted, measured = told["full_bytes_per_s"], counters["processed_bytes"] / counters["elapsed_s"]
    assert 0.75 < predicted / measured < 1.33
    assert predicted < 1.1 * rate, "no line carries more than it does"
    (network,) = (stage for stage in told["stages"] if stage["stage"] == "network")
    assert not network["at_least"]
