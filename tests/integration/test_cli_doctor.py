"""`holdfast doctor` finds what is wrong, one thing at a time, and says what to do; `holdfast init` ends with it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import holdfast_agent
from holdfast_manager.doctor import Level, peers
from lab.installation import Installation, installed


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installed(tmp_path_factory.mktemp("house")) as house:
        (house.vms / "web.img").write_bytes(bytes(4096))
        house.add_repository("main", encrypted=True)
        house.add_job("nightly", repository="main", include="web*")
        yield house


def found(house: Installation, expect: int) -> dict[str, dict[str, str]]:
    """What is not good, by subject."""
    findings = house.holdfast("doctor", expect=expect)["findings"]
    for finding in findings:
        assert bool(finding["advice"]) == (finding["level"] != Level.GOOD), f"{finding} says not what to do"
    return {finding["subject"]: finding for finding in findings if finding["level"] != Level.GOOD}


def test_a_good_set_up_is_good(house: Installation) -> None:
    assert found(house, expect=0) == {}


def test_before_anything_is_set_up_it_says_what_comes_next(tmp_path: Path) -> None:
    empty = Installation(tmp_path)
    missing = found(empty, expect=1)
    assert missing["data directory"]["advice"] == "holdfast init"
    empty.holdfast("init")
    missing = found(empty, expect=1)
    assert set(missing) == {"agents", "servers", "repositories", "jobs"}
    assert {finding["level"] for finding in missing.values()} == {Level.MISSING}


def test_keys_that_others_can_read_and_keys_that_are_gone(house: Installation) -> None:
    key = house.home / "manager" / "catalog.key"
    key.chmod(0o644)
    try:
        assert "catalog.key" in found(house, expect=1)["data directory"]["text"]
    finally:
        key.chmod(0o600)
    key.rename(key.with_suffix(".aside"))
    try:
        assert "no sealed passphrase" in found(house, expect=1)["keys"]["text"]
    finally:
        key.with_suffix(".aside").rename(key)


def test_a_server_that_is_gone_and_an_agent_that_does_not_answer(house: Installation) -> None:
    aside = house.vms.with_name("aside")
    house.vms.rename(aside)
    house.stop_agent()
    try:
        wrong = found(house, expect=1)
        assert (wrong["server lab"]["level"], wrong["agent local"]["level"]) == (Level.PROBLEM, Level.PROBLEM)
        assert str(house.vms) in wrong["server lab"]["text"]
        assert wrong["repository main"]["level"] == Level.PROBLEM
    finally:
        aside.rename(house.vms)
        house.start_agent()


def test_a_repository_whose_storage_is_not_there_and_one_that_is_another(house: Installation) -> None:
    store, aside = house.store / "main", house.store / "aside"
    house.add_repository("other", encrypted=True)
    store.rename(aside)
    try:
        assert found(house, expect=1)["repository main"]["level"] == Level.PROBLEM
        shutil.copytree(house.store / "other", store)
        assert "another repository" in found(house, expect=1)["repository main"]["text"]
    finally:
        shutil.rmtree(store, ignore_errors=True)
        aside.rename(store)
        house.holdfast("repository", "remove", "other")


def test_a_schedule_without_a_service_is_a_problem(house: Installation) -> None:
    house.add_job("timed", "--schedule", "daily 22:00", repository="main", include="web*")
    try:
        assert "no service runs" in found(house, expect=1)["service"]["text"]
    finally:
        house.holdfast("job", "remove", "timed")


def test_a_job_that_writes_to_a_sealed_repository_is_a_problem(house: Installation) -> None:
    house.holdfast("repository", "seal", "main")
    try:
        (wrong,) = found(house, expect=1).values()
        assert (wrong["subject"], wrong["level"]) == ("job nightly", Level.PROBLEM)
        assert "main, where it writes, is sealed" in wrong["text"]
    finally:
        house.holdfast("repository", "unseal", "main")


def test_a_job_whose_last_session_failed_is_a_warning(house: Installation) -> None:
    house.add_job("void", repository="main", include="nobody")
    try:
        house.holdfast("job", "run", "void", expect=10)
        wrong = found(house, expect=0)["job void"]
        assert wrong["level"] == Level.WARNING
        assert "ended as failed: " in wrong["text"] and "nobody" in wrong["text"], wrong
        assert "holdfast session show" in wrong["advice"]
    finally:
        house.holdfast("job", "remove", "void")


def test_a_repository_without_encryption_is_a_warning(house: Installation) -> None:
    house.add_repository("open", encrypted=False)
    try:
        assert found(house, expect=0)["repository open"]["level"] == Level.WARNING
        house.holdfast("doctor", "--strict", expect=4)
    finally:
        house.holdfast("repository", "remove", "open")


@pytest.mark.parametrize(
    ("software", "clock_ahead_s", "text"),
    [
        ("0.0.1", 0.0, "it is Holdfast 0.0.1"),
        (holdfast_agent.__version__, 3600.0, "3600 s ahead of"),
        (holdfast_agent.__version__, -3600.0, "3600 s behind"),
    ],
)
def test_versions_and_clocks_that_differ_are_told(
    house: Installation, software: str, clock_ahead_s: float, text: str
) -> None:
    """What a real agent says, but for the one thing."""
    import msgspec

    from holdfast_agent.channel.authentication import KeyPair
    from holdfast_manager.catalog.values import AgentEntry
    from holdfast_manager.enrolment.health import ask_state

    (told,) = house.holdfast("agent", "list")["agents"]
    entry = msgspec.convert({key: told[key] for key in AgentEntry.__struct_fields__}, AgentEntry)
    state = ask_state(entry, KeyPair.load(house.home / "manager" / "manager.key"))
    hello = msgspec.structs.replace(state.hello, software=software)
    odd = msgspec.structs.replace(state, hello=hello, clock_ahead_s=clock_ahead_s)
    assert any(text in finding.text for finding in peers._of_state("agent local", odd))
    assert [finding for finding in peers._of_state("agent local", state) if finding.level is Level.PROBLEM] == []
