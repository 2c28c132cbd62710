"""The web console over TLS, with a real catalogue, a real repository and a real service: who gets in, what is shown,
what can be done, what comes out of restore points, and what becomes of it all when something dies."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import socket
import ssl
import subprocess
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from holdfast_manager.catalog.values import SessionState
from holdfast_manager.steps import Step
from lab import file_trees as trees
from lab.consoles import PASSWORD, Site, Visitor, image_of, served, with_console
from lab.installation import installed
from lab.processes import alive
from lab.services import Service, catalogue, service
from lab.waiting import wait_until

VM = "web.img"
NASTY = '<b>it\'s "bad" & worse'
PAGES = ("/", "/vms", "/sessions", "/sessions/1", "/jobs", "/storage", "/storage/main", "/resources")
PARTS = ("/live", "/sessions/1/live", "/resources/live")
DOING = ("/jobs/run", "/jobs/enable", "/jobs/disable", "/sessions/stop", "/logout")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two VMs that were backed up, one of them with a name that means something to browsers, and one that was not."""
    content = tmp_path_factory.mktemp("content") / "content"
    trees.furnish(content)
    (content / "etc" / "ünïcode 'quoted' \"name\".txt").write_text("a name that has to be told with care\n")
    (content / "big").write_bytes(os.urandom(9 << 20))
    with installed(tmp_path_factory.mktemp("house")) as house:
        house.add_repository("main", encrypted=True)
        trees.make_ext4(house.vms / VM, content)
        (house.out / "content").symlink_to(content)
        image_of(house.vms, NASTY, os.urandom(1 << 20))
        image_of(house.vms, "forgotten", os.urandom(1 << 20))
        image_of(house.vms, "slow", os.urandom(4 << 20))
        house.add_job("nightly", "--include", "*bad*", repository="main", include=VM)
        house.add_job("slow", "--bandwidth", "200 KiB", repository="main", include="slow")
        house.run_job("nightly")
        yield with_console(house)


@pytest.fixture(scope="module")
def running(site: Site) -> Iterator[Service]:
    with served(site) as made:
        yield made


@pytest.fixture(scope="module")
def slow(site: Site, running: Service) -> Iterator[ssl.SSLSocket]:
    """Somebody who never comes to the end of a request; begun early, so that no test has to wait for what follows."""
    context = ssl.create_default_context(cafile=str(site.certificate))
    plain = socket.create_connection(("127.0.0.1", site.port))
    with context.wrap_socket(plain, server_hostname="127.0.0.1") as made:
        made.sendall(b"GET /login HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        yield made


@pytest.fixture(scope="module")
def administrator(site: Site, running: Service) -> Visitor:
    return site.visitor("administrator")


def point_of(site: Site, vm: str) -> str:
    sid: str = site.house.points(vm)[0]["sid"]
    return sid


def vm_page(name: str) -> str:
    return f"/vm?server=lab&id={urllib.parse.quote(name, safe='')}"


def all_pages(site: Site) -> tuple[str, ...]:
    point = f"/points/{point_of(site, VM)}"
    return (*PAGES, vm_page(VM), vm_page(NASTY), point, f"{point}/files", f"{point}/files?path=/etc")


def audited(site: Site, action: str) -> list[tuple[str, str, str]]:
    """(actor, target, outcome) of what the audit log tells of an action, the oldest first."""
    with catalogue(site.house) as catalog:
        return [(each.actor, each.target, each.outcome) for each in catalog.audit.list() if each.action == action][::-1]


def test_it_is_told_with_its_fingerprint(site: Site, running: Service, slow: ssl.SSLSocket) -> None:
    shown = site.house.holdfast("service", "show")["console"]
    served_pem = ssl.get_server_certificate(("127.0.0.1", site.port))
    digest = ssl.PEM_cert_to_DER_cert(served_pem)
    assert shown["address"] == site.url + "/"
    assert shown["fingerprint"].replace(":", "").lower() == hashlib.sha256(digest).hexdigest()
    assert site.certificate.with_name("key.pem").stat().st_mode & 0o777 == 0o600
    with socket.create_connection(("127.0.0.1", site.port)) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b"HTTP" not in plain.recv(1000)


def test_nobody_sees_or_does_anything_without_a_login(site: Site, running: Service) -> None:
    stranger = site.visitor()
    for page in (*all_pages(site), *(f"/points/{point_of(site, VM)}/{part}" for part in ("screen", "file"))):
        answer = stranger.get(page)
        assert (answer.status_code, answer.text) == (303, ""), page
        assert answer.headers["Location"].startswith("/login"), page
    for part in PARTS:
        assert (stranger.get(part).status_code, stranger.get(part).text) == (401, "")
    for place in DOING:
        assert stranger.post(place, data={"name": "nightly"}).status_code == 303
        assert stranger.get(place).status_code in (404, 405)
    stranger.cookies.set("__Host-holdfast", "x" * 43, secure=True, path="/")
    assert stranger.get("/").status_code == 303
    onwards = stranger.get("/jobs?x=1").headers["Location"]
    form = stranger.get(onwards).text
    assert 'name="next" value="/jobs?x=1"' in form
    for elsewhere in ("//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)"):
        assert 'name="next" value="/"' in stranger.get(f"/login?next={urllib.parse.quote(elsewhere)}").text


def test_a_login_is_proved_kept_safe_and_ends(site: Site, running: Service) -> None:
    visitor = site.visitor()
    answer = visitor.login("viewer")
    assert answer.headers["Location"] == "/"
    cookies = [each for each in answer.raw.headers.getlist("Set-Cookie") if each.startswith("__Host-holdfast=")]
    assert all(flag in cookies[0] for flag in ("HttpOnly", "Secure", "SameSite=strict", "Path=/")), cookies
    kept = visitor.cookies["__Host-holdfast"]
    assert visitor.send_form("/", "/logout").status_code == 303
    visitor.cookies.set("__Host-holdfast", kept, secure=True, path="/")
    assert visitor.get("/").status_code == 303, "a cookie outlived its login"
    with catalogue(site.house) as catalog:
        _, token = catalog.users.add_token("operator")
        by_token = site.visitor()
        assert by_token.send_form("/login", "/login", token=token).status_code == 303
        assert "Jobs" in by_token.text("/jobs")
        catalog.users.revoke_tokens("operator")
        assert by_token.get("/jobs").status_code == 303, "a token outlived its end"
    logged_in = site.visitor("viewer")
    site.house.holdfast("user", "edit", "viewer", "--disable")
    assert logged_in.get("/").status_code == 303, "a user who was disabled is still in"
    assert site.visitor().login("viewer").status_code == 403
    site.house.holdfast("user", "edit", "viewer", "--enable")
    logged_in = site.visitor("viewer")
    with catalogue(site.house) as catalog:
        catalog.users.update(catalog.users.get("viewer"), PASSWORD)
        assert logged_in.get("/").status_code == 303, "a login outlived its password"
        logged_in = site.visitor("viewer")
        viewer = catalog.users.get("viewer")
        catalog.users.remove("viewer")
        catalog.users.add(viewer, PASSWORD)
        assert logged_in.get("/").status_code == 303, "a login of somebody else who had the name"
    assert ("viewer", "", "done") in audited(site, "console login")


def test_guessing_is_slow_and_written_down(site: Site, running: Service) -> None:
    guesser = site.visitor()
    with ThreadPoolExecutor(12) as at_once:
        guesses = [at_once.submit(site.visitor().login, "administrator", f"guess {number}") for number in range(12)]
    codes = [guess.result().status_code for guess in guesses]
    assert set(codes) == {403, 429}
    assert codes.count(403) <= 6, "those who guess at the same time are not slowed down"
    wait = int(guesser.get("/login") and guesser.login("administrator").headers["Retry-After"])
    assert 1 <= wait <= 300
    assert ("administrator", "", "denied") in audited(site, "console login")
    log = running.log()
    assert "guess" not in log
    assert PASSWORD not in log
    # the address is slow now for everybody else behind it, too, until the pause is over
    wait_until(lambda: site.visitor().login("administrator").status_code == 303, "the end of the pause")


def test_forms_of_others_do_nothing(site: Site, administrator: Visitor) -> None:
    other = site.visitor("operator")
    csrf = administrator.csrf("/jobs")
    attempts = (
        {"data": {"name": "nightly"}},
        {"data": {"name": "nightly", "csrf": other.csrf("/jobs")}},
        {"data": {"name": "nightly", "csrf": csrf}, "headers": {"Origin": "https://evil.example"}},
        {"data": {"name": "nightly", "csrf": csrf}, "headers": {"Origin": "null"}},
        {"data": {"name": "nightly", "csrf": csrf}, "headers": {"Origin": f"https://127.0.0.1:{site.port + 1}"}},
        {"data": {"name": "nightly", "csrf": csrf}, "headers": {"Sec-Fetch-Site": "same-site"}},
    )
    for attempt in attempts:
        assert administrator.post("/jobs/disable", **attempt).status_code == 403, attempt  # type: ignore[arg-type]
        assert site.visitor().post("/login", **attempt).status_code == 403  # type: ignore[arg-type]
    assert administrator.get("/jobs/disable", params={"name": "nightly", "csrf": csrf}).status_code == 405
    assert site.house.holdfast("job", "show", "nightly")["job"]["enabled"] is True


def test_everybody_does_and_sees_what_the_role_allows(site: Site, running: Service) -> None:
    point = f"/points/{point_of(site, VM)}"
    inside = (f"{point}/files", f"{point}/file?path=/etc/hostname", f"{point}/screen")
    for name, operates, restores in (("viewer", 0, 0), ("operator", 1, 0), ("restore-operator", 0, 1)):
        visitor = site.visitor(name)
        assert all(visitor.get(page).status_code == 200 for page in PAGES), name
        assert ("Run now" in visitor.text("/jobs")) == bool(operates)
        assert ("Browse its files" in visitor.text(point)) == bool(restores)
        for place in inside[:2]:
            assert visitor.get(place).status_code == (200 if restores else 403), (name, place)
        assert visitor.get(inside[2]).status_code == (404 if restores else 403)
        answer = visitor.send_form("/", "/jobs/disable", name="nightly")
        assert answer.status_code == (303 if operates else 403), name
    assert site.house.holdfast("job", "show", "nightly")["job"]["enabled"] is False
    assert audited(site, "job disable")[-2:] == [("operator", "nightly", "began"), ("operator", "nightly", "done")]
    operator = site.visitor("operator")
    assert "disabled" in operator.text("/jobs")
    assert operator.send_form("/jobs", "/jobs/enable", name="nightly").headers["Location"] == "/jobs"
    assert operator.send_form("/jobs", "/jobs/enable", name="nothing").status_code == 404
    assert site.house.holdfast("job", "show", "nightly")["job"]["enabled"] is True


def test_pages_tell_what_is_so_and_names_stay_names(site: Site, administrator: Visitor) -> None:
    for page in all_pages(site):
        answer = administrator.get(page)
        assert answer.status_code == 200, page
        assert "<b>it" not in answer.text, page
        assert not re.search(r"(?:src|href|action)=\"(?!/|#)", answer.text), page
        assert not re.search(r"style=|<style| on[a-z]+=\"|<script(?! src=\"/static)", answer.text), page
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["Cache-Control"] == "no-store"
    overview = administrator.text("/")
    assert re.search(r"2\s+protected", overview)
    assert re.search(r"2\s+unprotected", overview)
    assert "forgotten on lab : no good restore point" in overview
    assert NASTY in administrator.text("/vms")
    session = administrator.text("/sessions/1")
    assert all(f" {step} " in session for step in Step)
    assert "backup by job nightly" in administrator.text("/sessions")
    assert "main" in administrator.text("/storage")
    assert "answers" in administrator.text("/resources")
    assert administrator.get("/nothing").status_code == administrator.get("/sessions/999").status_code == 404
    for wrong in ("/sessions?kind=x", "/sessions?before=x", "/vms?state=x", f"{vm_page(VM)}&month=2026-99"):
        assert administrator.get(wrong).status_code == 400, wrong


def test_requests_are_bounded(site: Site, slow: ssl.SSLSocket) -> None:
    visitor = site.visitor()
    assert visitor.get("/login", headers={"Host": "evil.example"}).status_code == 421
    assert visitor.get("/login", headers={"Host": f"localhost:{site.port}"}).status_code == 200
    assert visitor.put("/login").status_code == 405
    assert visitor.post("/login", data=b"x" * (65 << 10)).status_code == 413
    assert visitor.post("/login", data=b"=&" * 1000).status_code == 400
    assert visitor.get("/login", headers={"X": "x" * (17 << 10)}).status_code == 431
    with contextlib.suppress(requests.ConnectionError):  # it is cut off, perhaps before it can hear why
        assert visitor.get("/login", headers={"X": "x" * (1 << 20)}).status_code == 400
    slow.settimeout(60)
    assert slow.recv(100) == b"", "a request that never ends is waited for"
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py"):
        assert visitor.get(path).status_code == 404


def test_files_come_out_of_a_point_as_they_were(site: Site, administrator: Visitor) -> None:
    content = site.house.out / "content"
    point = f"/points/{point_of(site, VM)}"
    assert "hostname" in administrator.text(f"{point}/files?path=/etc")
    for name in ("etc/hostname", "big", "sparse", "size-0", "size-4095", "etc/ünïcode 'quoted' \"name\".txt"):
        answer = administrator.get(f"{point}/file?path=/{urllib.parse.quote(name)}")
        assert answer.status_code == 200, name
        assert answer.content == (content / name).read_bytes(), name
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["Content-Disposition"].startswith("attachment; filename=")
    told = administrator.head(f"{point}/file?path=/{urllib.parse.quote(name)}").headers["Content-Disposition"]
    assert told == (
        'attachment; filename="_n_code _quoted_ _name_.txt"; '
        "filename*=UTF-8''%C3%BCn%C3%AFcode%20%27quoted%27%20%22name%22.txt"
    )
    for path, code in (("/etc", 400), ("/nothing", 404), ("etc", 400), ("/..", 400), ("/%00", 400)):
        assert administrator.get(f"{point}/file?path={path}").status_code == code, path
    outcomes = {outcome for _, _, outcome in audited(site, "point download")}
    assert outcomes == {"began", "done"}


def test_a_download_that_is_left_leaves_nothing(site: Site, administrator: Visitor) -> None:
    with administrator.get(f"/points/{point_of(site, VM)}/file?path=/big", stream=True) as answer:
        next(answer.iter_content(1000))
    exports = site.house.home / "agent" / "exports"
    # the look at the folder, which others may come back to, stays for a while
    wait_until(lambda: len(list(exports.glob("*/*"))) <= 1, "the end of the export")


def test_jobs_run_and_their_progress_is_live(site: Site, administrator: Visitor) -> None:
    where = administrator.send_form("/jobs", "/jobs/run", name="slow").headers["Location"]
    try:
        wait_until(lambda: "<progress" in administrator.get(f"{where}/live").text, "progress")
        assert administrator.get(f"{where}/live").headers.get("X-Over") is None
        resources = administrator.text("/resources/live")
        assert "1 of 2" in resources
        assert "slow/disk.raw" in resources
        assert administrator.send_form("/jobs", "/jobs/run", name="slow").status_code == 409
    finally:
        assert administrator.send_form(where, "/sessions/stop", name=where.rpartition("/")[2]).status_code == 303
    wait_until(lambda: administrator.get(f"{where}/live").headers.get("X-Over"), "the end")
    assert "cancelled" in administrator.text(where)
    assert audited(site, "job run")[-1][:2] == ("administrator", "slow")


def console_process(service: Service) -> int | None:
    found = subprocess.run(
        ["ps", "--ppid", str(service.process.pid), "-o", "pid=,args="], capture_output=True, text=True, check=False
    )
    lines = [line.split() for line in found.stdout.splitlines() if "holdfast_manager.console" in line]
    return int(lines[0][0]) if lines else None


def test_its_death_hurts_nobody_and_it_dies_with_its_service(site: Site, running: Service) -> None:
    running.stop()
    assert not site.answers()
    site.house.holdfast("job", "edit", "nightly", "--schedule", "calendar *:*:0/2")
    site.house.holdfast("job", "enable", "nightly")
    with served(site) as first:
        first_console = console_process(first)
        assert first_console is not None
        os.kill(first_console, signal.SIGKILL)
        wait_until(site.answers, "another console")
        with catalogue(site.house) as catalog:
            before = len(catalog.sessions.list(job="nightly"))
            wait_until(lambda: len(catalog.sessions.list(job="nightly")) > before, "a job by schedule")
        second_console = console_process(first)
        assert second_console not in (None, first_console)
        first.kill()
        wait_until(lambda: not alive(second_console), "the console's own end")
        site.house.holdfast("job", "disable", "nightly")
        with catalogue(site.house) as catalog:
            wait_until(
                lambda: not [each for each in catalog.sessions.living() if each.state is not SessionState.ENDED],
                "the end of all sessions",
            )


def test_none_is_there_unless_the_configuration_says_so(site: Site) -> None:
    text = site.house.manager_config.read_text()
    site.house.manager_config.write_text(text.partition("[console]")[0])
    try:
        with service(site.house) as plain:
            assert console_process(plain) is None
            assert site.house.holdfast("service", "show")["console"] is None
    finally:
        site.house.manager_config.write_text(text)
