"""The web console in a real browser: nobody is shut out, scripts are an extra, and nothing comes from elsewhere."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec
import pytest

from holdfast_manager.catalog.values import BootRecord, PointState
from lab import file_trees as trees
from lab.browser import Browser, axe_script, browser
from lab.consoles import PASSWORD, Site, image_of, served, with_console
from lab.installation import installed
from lab.services import catalogue
from lab.waiting import wait_until

VM = "web.img"
DAY = 86400.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One VM with points of every standing on its calendar, one that is slow to back up, one without any point."""
    content = tmp_path_factory.mktemp("content") / "content"
    trees.furnish(content)
    with installed(tmp_path_factory.mktemp("house")) as house:
        house.add_repository("main", encrypted=True)
        trees.make_ext4(house.vms / VM, content)
        image_of(house.vms, "forgotten", b"x" * 4096)
        image_of(house.vms, "slow", random.Random(1).randbytes(4 << 20))
        house.add_job("nightly", repository="main", include=VM)
        house.add_job("slow", "--bandwidth", "200 KiB", repository="main", include="slow")
        house.run_job("nightly")
        made = with_console(house)
        with catalogue(house) as catalog:
            (row,) = catalog.points.list()
            boot = BootRecord(proved=True, at=row.created, session=1, reason="its agent answered", seconds=30.0)
            failed = msgspec.structs.replace(boot, proved=False, reason="nothing was seen in 300 s")
            for number, change in enumerate(
                (
                    {"verified": row.created},
                    {"state": PointState.SUSPECT, "doubt": "an audit found changes that tracking had missed"},
                    {"boot": boot, "held": True},
                    {"boot": failed},
                )
            ):
                sid, created = f"{number:x}" * 32, row.created - number * DAY / 2
                catalog.points.add(msgspec.structs.replace(row, sid=sid, created=created, session=None, **change))
        with served(made):
            yield made


@pytest.fixture(scope="module")
def window(site: Site) -> Iterator[Browser]:
    """Somebody who is logged in, by keys alone."""
    with browser() as opened:
        opened.open(f"{site.url}/login")
        opened.type("administrator")  # the field for the name has the focus
        opened.press("Tab")
        opened.type(PASSWORD)
        opened.press("Enter")
        opened.until("location.pathname === '/' && document.readyState === 'complete'")
        yield opened


@pytest.fixture
def point(site: Site) -> str:
    sid = next(each["sid"] for each in site.house.points(VM) if each["session"] is not None)
    return f"/points/{sid}"


def test_pages_shut_nobody_out_in_light_and_in_dark(site: Site, window: Browser, point: str) -> None:
    axe = axe_script()
    pages = ("/", "/vms", f"/vm?server=lab&id={VM}", point, f"{point}/files", "/sessions", "/sessions/1", "/jobs",
             "/storage", "/storage/main", "/resources", "/nothing")  # fmt: skip
    for page in pages:
        for is_dark in (False, True):
            window.dark(is_dark)
            window.open(f"{site.url}{page}")
            assert window.examine(axe) == [], (page, is_dark)
        said = [each for each in window.complaints() if "404" not in each]
        assert said == [], page
        assert all(each.startswith(site.url) for each in window.requested()), page
    window.dark(False)
    window.evaluate("document.querySelector('main').insertAdjacentHTML('beforeend', '<img src=\"/x\"><h4>x</h4>')")
    assert len(window.examine(axe)) >= 2, "the examination finds nothing wrong with what is wrong"


def test_the_frame_holds_no_page_wider_than_a_telephone(site: Site, window: Browser, point: str) -> None:
    window.size(375, 800)
    try:
        for page in ("/", "/vms", f"/vm?server=lab&id={VM}", point, "/sessions/1", "/jobs", "/storage", "/resources"):
            window.open(f"{site.url}{page}")
            assert window.evaluate("document.documentElement.scrollWidth") <= 375, page
    finally:
        window.size(1280, 900)


def test_keys_lead_everywhere_and_the_first_leads_past_the_frame(site: Site, window: Browser) -> None:
    window.open(f"{site.url}/jobs")
    window.press("Tab")
    assert window.evaluate("document.activeElement.textContent") == "Skip to the content"
    window.press("Enter")
    window.press("Tab")
    assert window.evaluate("document.querySelector('main').contains(document.activeElement)")
    reached = set()
    for _ in range(40):
        reached.add(window.evaluate("document.activeElement.getAttribute('aria-label')"))
        outline = window.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or window.evaluate("document.activeElement === document.body")
        window.press("Tab")
    assert {"Run now slow", "Disable slow", "Run now nightly"} <= reached


def test_progress_is_live_and_can_be_stopped(site: Site, window: Browser) -> None:
    window.open(f"{site.url}/jobs")
    window.follow("document.querySelector('[aria-label=\"Run now slow\"]').click()")
    try:
        window.until("!!document.querySelector('progress')")
        window.evaluate("window.same = true")
        first = window.evaluate("document.querySelector('progress').value")
        window.until(f"document.querySelector('progress').value > {first}")
        assert window.evaluate("window.same"), "the page was loaded anew"
        window.evaluate("document.querySelector('.live-note button').click()")
        assert window.evaluate("document.querySelector('.live-note button').textContent") == "Go on updating"
        window.evaluate("document.querySelector('.live-note button').click()")
    finally:
        window.follow("document.querySelector('form[action=\"/sessions/stop\"] button').click()")
    window.until("document.querySelector('.said').textContent === 'It has ended.'")
    assert window.evaluate("document.querySelector('.outcome').textContent") == "cancelled"
    assert window.complaints() == []


def test_without_scripts_pages_are_whole_and_forms_work(site: Site, window: Browser, point: str) -> None:
    window.scripts(False)
    try:
        window.open(f"{site.url}/")
        text = window.evaluate("document.body.innerText")
        assert "Needs attention" in text
        assert "Load again" in text
        window.open(f"{site.url}{point}/files")
        assert window.evaluate("[...document.querySelectorAll('td a')].some(each => each.textContent === 'etc/')")
        window.open(f"{site.url}/jobs")
        for state in ("Disable", "Enable"):
            window.follow(f"document.querySelector('[aria-label=\"{state} nightly\"]').click()")
        wait_until(lambda: site.house.holdfast("job", "show", "nightly")["job"]["enabled"], "an enabled job")
    finally:
        window.scripts(True)
