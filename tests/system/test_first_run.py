"""`holdfast init` as somebody sits before it on the first day: at a terminal, with a real agent, and by options."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_manager.cli.first_wishes import wishes_of
from lab.installation import BIN, CommandFailed, Installation
from lab.terminal import Terminal, at_terminal

PASSPHRASE = "correct horse battery staple"  # noqa: S105 - of a repository of this test
SECRETS = ("The agent's token:", "New passphrase:", "Repeat for confirmation:", "Passphrase of main:")
LEFT_HALF_DONE = "What was made stays; `holdfast init` goes on from there."


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Installation]:
    """An agent that runs and has never heard of a manager, and a VM on its host."""
    house = Installation(tmp_path)
    (house.vms / "web.img").write_bytes(random.Random(1).randbytes(1 << 20))
    house.agent_command("init")
    house.start_agent()
    yield house
    house.stop_agent()


def first_run(house: Installation) -> list[str]:
    return [str(BIN / "holdfast"), "init"]


def answers(house: Installation) -> list[tuple[str, str]]:
    """What is asked in turn, and what is answered to it."""
    return [
        ("Where is it?", f"127.0.0.1:{house.port}"),
        ("What to call it here [local]", ""),
        ("The agent's token:", house.agent_command("token").strip()),
        ("Directory there, absolute", str(house.store / "main")),
        ("What to call it [main]", ""),
        ("New passphrase:", PASSPHRASE),
        ("Repeat for confirmation:", PASSPHRASE),
        ("Print it now? [Y/n]", ""),
        ("Which of them", "images"),
        ("What to call it [images]", "lab"),
        ("Its path", str(house.vms)),
        ("Names of its credentials", ""),
        ("Back up all VMs of lab into main, daily 22:00? [Y/n]", ""),
        ("What to call it [nightly]", ""),
    ]


def made(house: Installation) -> list[str]:
    """What the manager knows of; each works, or it would not be told."""
    agents = [each["name"] for each in house.holdfast("agent", "list", "--check")["agents"]]
    repositories = [each["name"] for each in house.holdfast("repository", "list")["repositories"]]
    for name in repositories:
        assert house.holdfast("repository", "show", name)["key_kept"]
    servers = [each["server"]["name"] for each in house.holdfast("server", "list")["servers"]]
    return agents + repositories + servers + [each["job"]["name"] for each in house.holdfast("job", "list")["jobs"]]


def test_from_nothing_to_a_set_up_that_backs_up(house: Installation) -> None:
    with at_terminal(first_run(house), house.environment) as terminal:
        for question, answer in answers(house):
            told = terminal.expect(question)
            if question == "Which of them":
                assert "Holdfast paper key of the repository main" in told
            terminal.type(answer, unseen=question in SECRETS)
        told = terminal.expect("thing to do")
        assert terminal.end() == 0
    assert told.count("!!") == 1 and "no service runs" in told, "all that is missing is what runs the schedule"
    for command in ("agent add local", "repository add main", "server add lab", "job create nightly"):
        assert f"  holdfast {command}" in terminal.shown, "who was led through it has seen the commands"
    assert PASSPHRASE not in terminal.shown
    assert house.run_job("nightly")["result"] == "success"
    with at_terminal(first_run(house), house.environment) as again:
        assert "New" not in again.expect("thing to do"), "nothing is asked twice"
        assert again.end() == 0


def test_ctrl_c_at_any_question_leaves_whole_things_and_a_way_on(house: Installation) -> None:
    script = answers(house)
    step_of = [0] * 3 + [1] * 5 + [2] * 4 + [3] * 2
    whole = ["local", "main", "lab", "nightly"]
    steps = 0
    for stop in (2, 4, 6, 7, 13):
        with at_terminal(first_run(house), house.environment) as terminal:
            begin = next(at for at, step in enumerate(step_of) if step >= steps)
            answer_all(terminal, script[begin:stop])
            terminal.expect(script[stop][0])
            assert terminal.interrupt() == 130
            assert LEFT_HALF_DONE in terminal.shown
            assert terminal.echoes
        steps = step_of[stop] + (stop == 7)  # the repository is whole when its paper key is offered
        assert made(house) == whole[:steps], f"after Ctrl-C at {script[stop][0]!r}"
        assert (house.store / "main").exists() == (steps > 1)
    with at_terminal(first_run(house), house.environment) as terminal:
        answer_all(terminal, script[12:])
        assert terminal.end() == 0
    assert made(house) == whole


def answer_all(terminal: Terminal, script: list[tuple[str, str]]) -> None:
    for question, answer in script:
        terminal.expect(question)
        terminal.type(answer, unseen=question in SECRETS)


def test_a_repository_that_lost_its_manager_is_opened_and_a_slip_is_asked_again(
    house: Installation, tmp_path: Path
) -> None:
    house.holdfast("init")
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text(house.agent_command("token"))
    house.holdfast("agent", "add", "local", f"127.0.0.1:{house.port}", "--token-file", token)
    house.add_repository("main", encrypted=True)
    house.holdfast("repository", "remove", "main")
    passphrase = (house.home / "main.pass").read_text().strip()
    with at_terminal(first_run(house), house.environment) as terminal:
        answer_all(terminal, [
            ("Directory there", "main"), ("What to call it [main]", ""), ("New passphrase:", "short"),
            ("Repeat for confirmation:", "short"), ("Once more?", "y"),
            ("Directory there", str(house.store / "main")), ("What to call it [main]", ""),
            ("New passphrase:", passphrase), ("Repeat for confirmation:", passphrase),
            ("Open the one that is there?", ""), ("Passphrase of main:", passphrase), ("Print it now?", "n"),
            ("Which of them", ""),
        ])  # fmt: skip
        assert terminal.end() == 0
    assert made(house) == ["local", "main"]


def test_by_options_nothing_is_asked_and_what_is_there_is_kept(house: Installation, tmp_path: Path) -> None:
    for name, secret in (("token", house.agent_command("token")), ("pass", PASSPHRASE)):
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_text(secret)
    options = (
        "--agent", f"local=127.0.0.1:{house.port}", "--token-file", tmp_path / "token",
        "--repository", f"main={house.store / 'main'}", "--passphrase-file", tmp_path / "pass",
        "--server", "lab=images", "--option", f"path={house.vms}", "--job", "nightly",
    )  # fmt: skip
    with pytest.raises(CommandFailed, match="cannot be reached"):
        house.holdfast("init", *options[:-4], "--option", f"path={house.home / 'nowhere'}")
    told = house.holdfast("init", *options)
    assert told["steps"].keys() == {"server", "job"}, "what was made before the slip is kept"
    assert [each["subject"] for each in told["findings"] if each["level"] == "problem"] == ["service"]
    assert house.run_job("nightly")["result"] == "success"
    assert house.holdfast("init", *options)["steps"] == {}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"token_file": Path("x")}, "--token-file goes with --agent"),
        ({"options": ("a=b",)}, "--option goes with --server"),
        ({"repository": "main=/x"}, "--repository goes with --agent"),
        ({"job": "nightly"}, "--job goes with --repository and --server"),
        ({"agent": "local"}, "takes NAME="),
    ],
)
def test_options_that_make_no_sense_are_told_before_anything_is_made(given: dict[str, object], told: str) -> None:
    from holdfast_agent.errors import UsageError

    nothing = dict.fromkeys(
        (
            "agent",
            "token_file",
            "repository",
            "passphrase_file",
            "no_encryption",
            "server",
            "options",
            "secret_file",
            "job",
        )
    )
    with pytest.raises(UsageError, match=told):
        wishes_of(nothing | given)
