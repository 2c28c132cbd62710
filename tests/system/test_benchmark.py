"""`holdfast benchmark` with real movers: it tells what it measured, and nothing of it stays, however it ends."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_manager.scheduler.occupation import occupation
from lab.installation import Installation, installed
from lab.processes import MOVER, children, program
from lab.services import catalogue
from lab.waiting import wait_until

MIB = 1 << 20
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installed(tmp_path_factory.mktemp("house")) as made:
        made.add_repository("sealed", encrypted=True)
        made.add_repository("plain", encrypted=False)
        yield made


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "benchmark" not in path.name}


@pytest.mark.parametrize("repository", ["sealed", "plain"])
def test_a_made_up_load_is_measured_and_leaves_nothing(house: Installation, repository: str) -> None:
    before = _files(house.store / repository)
    found = house.holdfast("benchmark", "local", repository, "--size", "64 MiB")
    prediction = found["prediction"]
    assert prediction["full_bytes_per_s"] > MIB
    # Which is quicker is the machine's business: a busy one may have read slowly just when nothing was stored.
    between = sorted((prediction["full_bytes_per_s"], prediction["unchanged_bytes_per_s"]))
    assert between[0] <= prediction["incremental_bytes_per_s"] <= between[1]
    assert 1.7 < prediction["ratio"] < 2.1
    assert prediction["bottleneck_full"] in ("source", "proxy", "network", "target")
    passes = found["passes"]
    assert [passes[stage]["sent_bytes"] for stage in ("read", "send", "store")] == [0, 64 * MIB, 64 * MIB]
    assert [passes[stage]["stored_bytes"] > 30 * MIB for stage in ("read", "send", "store")] == [False, False, True]
    assert passes["send"]["transferred_bytes"] > 64 * MIB > passes["store"]["transferred_bytes"]
    stages = [f"{each['stage']} {each['what']}" for each in prediction["stages"]]
    assert stages == ["source read", "proxy ids", "proxy seal", "proxy compress", "network send", "target store"]
    assert not (house.store / repository / "benchmark").exists()
    assert _files(house.store / repository) == before
    house.holdfast("repository", "verify", repository)


def test_a_disk_is_read_and_people_are_told_in_the_words_of_the_load_line(house: Installation) -> None:
    disk = house.vms / "web" / "disk.raw"
    disk.parent.mkdir()
    disk.write_bytes(random.Random(1).randbytes(20 * MIB) + bytes(20 * MIB))
    arguments = ("benchmark", "local", "sealed", "--disk", f"file:{disk}", "--size", "1 GiB", "--changed", "10")
    found = house.holdfast(*arguments)
    assert found["passes"]["store"]["size_bytes"] == 40 * MIB
    assert found["passes"]["store"]["zero_bytes"] == 20 * MIB
    assert 0.95 < found["prediction"]["ratio"] < 1.05
    command = house.command(*arguments)
    text = subprocess.run(
        command[: command.index("--output")], env=house.environment, capture_output=True, text=True, check=True
    )
    assert "Full:" in text.stdout
    assert "by digest with 10 % changed, bottleneck" in text.stdout
    assert "Source" in text.stdout
    assert text.stderr.splitlines() == ["reading …", "sending …", "storing …"]


def test_what_cannot_be_measured_is_refused(house: Installation) -> None:
    assert house.holdfast("benchmark", "nobody", "plain", expect=10)["error"]["code"] == "not_found"
    assert house.holdfast("benchmark", "local", "none", expect=10)["error"]["code"] == "not_found"
    refused = house.holdfast("benchmark", "local", "plain", "--disk", "file:/etc/passwd", expect=13)
    assert refused["error"]["code"] == "disk_denied"
    full = house.holdfast("benchmark", "local", "plain", "--size", "8 TiB", expect=1)
    assert full["error"]["code"] == "repository_full"


def test_it_is_refused_beside_a_session_that_works_there(house: Installation) -> None:
    disk = house.vms / "busy" / "disk.raw"
    disk.parent.mkdir()
    disk.write_bytes(random.Random(2).randbytes(16 * MIB))
    house.add_job("busy", "--bandwidth", "64 KiB", "--compression", "none", repository="sealed", include="busy")
    session = house.holdfast("job", "run", "busy", "--detach")["session"]
    with catalogue(house) as catalog:
        wait_until(lambda: occupation(catalog.database).holding, "the backup's slots")
        small = ("benchmark", "local", "plain", "--size", "8 MiB")
        refused = house.holdfast(*small, expect=11)["error"]
        assert (refused["code"], f"session {session} (--beside-others" in refused["message"]) == ("locked", True)
        assert house.holdfast(*small, "--beside-others")["beside_sessions"] == [session]
        house.holdfast("session", "stop", str(session))
        wait_until(lambda: not catalog.sessions.living(), "the end of the backup")
    assert house.holdfast(*small)["beside_sessions"] == []


def _measuring(house: Installation) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """A benchmark that takes longer than anybody here lets it."""
    command = house.command("benchmark", "local", "plain", "--size", "3 GiB")
    return program(command, env=house.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_however_it_ends_nothing_stays(house: Installation, how: signal.Signals) -> None:
    scratch = house.store / "plain" / "benchmark" / "repository"
    with _measuring(house) as command:
        wait_until(scratch.exists, "the repository of the benchmark")
        command.send_signal(how)
        assert command.wait(PATIENCE_S) != 0
    assert house.agent is not None
    agent = house.agent
    wait_until(lambda: children(agent.pid, MOVER) == [] and not scratch.parent.exists(), "nothing to be left")


def test_what_a_killed_mover_left_goes_when_the_repository_is_opened_next(house: Installation) -> None:
    scratch = house.store / "plain" / "benchmark"
    with _measuring(house) as command:
        wait_until((scratch / "repository").exists, "the repository of the benchmark")
        assert house.agent is not None
        for mover in children(house.agent.pid, MOVER):
            subprocess.run(["kill", "-KILL", str(mover)], check=False)
        assert command.wait(PATIENCE_S) == 1
    assert scratch.exists()
    house.holdfast("repository", "verify", "plain")
    house.holdfast("repository", "show", "plain")
    assert not scratch.exists()
