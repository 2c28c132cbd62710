"""One-time tokens: a manager that an agent does not know enrols itself, once, and can do nothing else by its token."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from holdfast_agent.channel.authentication import AuthorisedKeys, KeyPair
from holdfast_agent.channel.enrolment_tokens import EnrolmentToken, EnrolmentTokens
from holdfast_agent.errors import NotAuthorised, Unreachable, UsageError
from holdfast_agent.wire import messages as m
from holdfast_manager.enrolment.agents import connected, enrol
from lab.agents import RunningAgent, start_agent
from lab.control_peer import RawPeer
from lab.installation import Installation

MANAGER, OTHER = KeyPair.generate(), KeyPair.generate()
HELLO = m.Hello(major=1, minor=3, software="test", clock=0.0)


def tokens_of(agent: RunningAgent) -> EnrolmentTokens:
    return EnrolmentTokens(agent.settings.tokens_file)


def test_a_token_says_who_both_are_and_no_slip_makes_another_of_it() -> None:
    token = EnrolmentToken(OTHER.public, MANAGER)
    assert EnrolmentToken.parse(f" {token.text}\n") == token
    assert token.text.replace("-", "").replace("_", "").isalnum()
    for bad in ("", "hft1-", token.text[:-1], token.text + "A", token.text[5:], "hft1-" + "é" * 86, OTHER.public):
        with pytest.raises(UsageError) as raised:
            EnrolmentToken.parse(bad)
        assert not bad or bad not in str(raised.value), "a secret is repeated"


def test_tokens_run_out_are_spent_once_and_are_nobody_elses(tmp_path: Path, clock) -> None:
    tokens = EnrolmentTokens(tmp_path / "tokens", clock)
    assert not tokens.admits(MANAGER.public)
    first, second = (tokens.make(OTHER.public, seconds).keys for seconds in (100, 1000))
    assert stat.S_IMODE((tmp_path / "tokens").stat().st_mode) == 0o600
    assert first.secret.decode() not in (tmp_path / "tokens").read_text(), "what is stored opens nothing"
    assert tokens.spend(second.public)
    assert not tokens.spend(second.public)
    assert tokens.admits(first.public)
    clock.pass_time(100)
    assert not tokens.admits(first.public)
    assert not tokens.spend(first.public)
    (tmp_path / "tokens").write_text(f"rubbish\n{first.public} soon\n\xff 99999999999\n")
    assert not tokens.admits(first.public)
    tokens.make(OTHER.public, 100)
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]


def test_a_manager_enrols_itself_once(tmp_path: Path) -> None:
    with start_agent(tmp_path, authorised=[]) as agent:
        token = tokens_of(agent).make(agent.public_key, 100)
        with pytest.raises(Unreachable), connected(agent.endpoint, agent.public_key, MANAGER, 0.5):
            pass
        enrol(agent.endpoint, EnrolmentToken.parse(token.text), MANAGER)
        with connected(agent.endpoint, agent.public_key, MANAGER) as client:
            assert isinstance(client.call(m.AskHealth()), m.Health)
        with pytest.raises(Unreachable):
            enrol(agent.endpoint, token, OTHER, 0.5)
        assert AuthorisedKeys(agent.settings.authorised_keys_file).current().keys() == {MANAGER.public}


def test_a_token_is_good_for_nothing_else(tmp_path: Path) -> None:
    with start_agent(tmp_path, authorised=[MANAGER.public]) as agent:
        token = tokens_of(agent).make(agent.public_key, 100)
        with RawPeer(agent.endpoint, agent.public_key, token.keys) as peer:
            assert isinstance(peer.ask(HELLO), m.HelloReply)
            for request in (m.AskHealth(), m.RenewLease(lease="l", ttl_s=10), m.OpenRepository(repository="/r")):
                refused = peer.ask(request)
                assert isinstance(refused, m.Failure)
                assert refused.error.code == NotAuthorised.code
            for key, name in (("nonsense", "n"), (OTHER.public, "line\nbreak"), (OTHER.public, "")):
                assert isinstance(peer.ask(m.Enrol(key=key, name=name)), m.Failure)
            assert isinstance(peer.ask(m.Enrol(key=OTHER.public, name="other")), m.Done)
            again = peer.ask(m.Enrol(key=KeyPair.generate().public, name="more"))
            assert isinstance(again, m.Failure)
        with RawPeer(agent.endpoint, agent.public_key, MANAGER) as manager:
            assert isinstance(manager.ask(HELLO), m.HelloReply)
            refused = manager.ask(m.Enrol(key=KeyPair.generate().public, name="friend"))
            assert isinstance(refused, m.Failure), "who is admitted does not admit others"
        admitted = AuthorisedKeys(agent.settings.authorised_keys_file).current()
        assert admitted.keys() == {MANAGER.public, OTHER.public}


def test_by_the_commands(tmp_path: Path) -> None:
    house = Installation(tmp_path)
    house.agent_command("init")
    house.holdfast("init")
    house.start_agent()
    try:
        file = tmp_path / "token"
        file.touch(0o600)
        file.write_text(house.agent_command("token", "--valid", "10min"))
        place = ("agent", "add", "local", f"127.0.0.1:{house.port}")
        house.holdfast(*place, expect=2)
        house.holdfast(*place, "KEY", "--token", expect=2)
        house.holdfast(*place, "--token-file", file)
        assert house.holdfast("agent", "list", "--check")["agents"][0]["reachable"]
        house.holdfast("agent", "remove", "local")
        house.holdfast(*place, "--token-file", file, "--timeout", "0.5", expect=1)
    finally:
        house.stop_agent()
