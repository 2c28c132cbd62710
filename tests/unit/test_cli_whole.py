"""Ctrl-C between two steps that belong together comes after both."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.sealing.keys import MasterKey
from holdfast_agent.wire.messages import RepositoryFacts
from holdfast_manager.catalog import Catalog
from holdfast_manager.cli.main import EXIT_CANCELLED, run
from holdfast_manager.cli.whole import undisturbed
from holdfast_manager.enrolment import repositories
from holdfast_manager.settings import ManagerSettings


def test_ctrl_c_is_told_when_the_block_is_done_and_not_forgotten() -> None:
    done, before = [], signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), undisturbed():
        os.kill(os.getpid(), signal.SIGINT)
        done.append("the other half")
    assert done == ["the other half"]
    assert signal.getsignal(signal.SIGINT) is before


def test_an_error_of_the_block_goes_before_ctrl_c() -> None:
    with pytest.raises(ZeroDivisionError), undisturbed():
        os.kill(os.getpid(), signal.SIGINT)
        raise ZeroDivisionError
    with undisturbed():
        pass


def test_a_repository_that_was_made_is_kept_with_its_key(
    stocked: Catalog, manager_settings: ManagerSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent has made it, and its answer has just come, when Ctrl-C is pressed."""
    KeyPair.generate().save(manager_settings.identity_file)
    secret = tmp_path / "pass"
    secret.touch(0o600)
    secret.write_text("correct horse battery staple\n")
    monkeypatch.setenv("HOLDFAST_HOME", str(manager_settings.home))
    master = MasterKey.generate()

    def made(*_: object) -> repositories.Opened:
        os.kill(os.getpid(), signal.SIGINT)
        return repositories.Opened(
            RepositoryFacts(repository_id="ab" * 16, slots=(), total_bytes=0, free_bytes=0), master
        )

    monkeypatch.setattr(repositories, "create", made)
    command = ["repository", "add", "new", "--agent", "a", "--path", "/srv/new", "--create"]
    assert run([*command, "--passphrase-file", str(secret)]) == EXIT_CANCELLED
    assert stocked.repositories.get("new").repository_id == "ab" * 16
    assert stocked.repositories.master_key("new") == master.reveal()


def test_a_key_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        KeyPair.generate().save(tmp_path / "key")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    keys = KeyPair.generate()
    keys.save(tmp_path / "key")
    with pytest.raises(FileExistsError):
        KeyPair.generate().save(tmp_path / "key")
    assert KeyPair.load(tmp_path / "key").public == keys.public
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
