"""How the host loads plugins, and what it says of those that it cannot load."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.errors import ConfigInvalid, PluginMissing, UnknownConfigKey
from holdfast_manager.host import PluginHost, PluginReport, PluginStatus, checks
from holdfast_manager.host import host as host_module
from holdfast_manager.host.discovery import BUILT_IN
from holdfast_plugins.api import Family, Registry

PREAMBLE = """
import msgspec
from holdfast_plugins.api import Registry

class Options(msgspec.Struct, frozen=True):
    address: str
    port: int = 443

class Loose(msgspec.Struct):
    pass

class Driver:
    def __init__(self, options, secret):
        self.options, self.secret = options, secret
"""
GOOD = """
def holdfast_register_hypervisors(registry):
    registry.hypervisor("{name}", Driver, summary="a test", options_type=Options)
"""


class Plugins:
    """Plugins on disk: modules, and distributions that announce them as entry points."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def module(self, name: str, body: str) -> str:
        (self._directory / f"{name}.py").write_text(PREAMBLE + body)
        return name

    def distribution(self, name: str, entry_points: dict[str, str]) -> None:
        info = self._directory / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        points = "".join(f"{point} = {module}\n" for point, module in entry_points.items())
        (info / "entry_points.txt").write_text(f"[holdfast.plugins]\n{points}")


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugins]:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield Plugins(tmp_path)
    for name in ("one", "two", "broken"):
        sys.modules.pop(name, None)  # the next test's module of that name is another


def report(host: PluginHost, name: str) -> PluginReport:
    return next(entry for entry in host.report() if entry.name == name)


def broken(host: PluginHost, name: str) -> str:
    entry = report(host, name)
    assert entry.status is PluginStatus.BROKEN
    assert entry.error is not None
    assert entry.error.code == "plugin_broken"
    return entry.error.message


def test_built_ins_come_through_the_same_door() -> None:
    host = PluginHost.load()
    assert {entry.name: entry.status for entry in host.report()} == {
        "qemu_agent": PluginStatus.LOADED,
        "scripts": PluginStatus.LOADED,
        "ssh": PluginStatus.LOADED,
        "images": PluginStatus.LOADED,
        "libvirt": PluginStatus.LOADED,
        "qemu": PluginStatus.LOADED,
        "vmware_tools": PluginStatus.LOADED,
        "vsphere": PluginStatus.LOADED,
        "smtp": PluginStatus.LOADED,
        "syslog": PluginStatus.LOADED,
        "webhook": PluginStatus.LOADED,
    }
    assert [(item.family, item.name) for item in report(host, "images").provides] == [(Family.HYPERVISOR, "images")]


def test_entry_points_and_configured_modules_are_loaded_in_a_fixed_order(plugins: Plugins) -> None:
    plugins.module("one", GOOD.format(name="alpha"))
    plugins.module("two", GOOD.format(name="beta"))
    plugins.distribution("dist-b", {"plugin-b": "one"})
    host = PluginHost.load(extra=["two"])
    assert [(entry.name, entry.origin) for entry in host.report()][-2:] == [
        ("plugin-b", "dist-b 1.0"),
        ("two", "configuration"),
    ]
    driver = host.hypervisor("alpha", {"address": "host"}, {"password": "x"}, "test")
    assert driver.unguarded.options.port == 443
    assert driver.unguarded.secret == {"password": "x"}


def test_a_disabled_plugin_is_not_even_imported(plugins: Plugins) -> None:
    plugins.module("one", "raise RuntimeError('imported')\n")
    plugins.distribution("dist", {"point": "one"})
    host = PluginHost.load(disabled=["point", "images", "gone"])
    assert report(host, "point").status is PluginStatus.DISABLED
    assert report(host, "gone").status is PluginStatus.ABSENT
    with pytest.raises(PluginMissing, match="the plugin 'images' is disabled"):
        host.hypervisor("images", {}, {}, "test")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise RuntimeError('on import')", "RuntimeError: on import"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def (", "SyntaxError"),
        ("", "registers nothing"),
        ("def holdfast_register_hypervisor(registry): pass", "unknown hook 'holdfast_register_hypervisor'"),
        ("def holdfast_register_hypervisors(wrong): pass", r"Argument\(s\) {'wrong'}"),
        ("def holdfast_register_hypervisors(registry=None): pass", "must not have a default"),
        ("async def holdfast_register_hypervisors(registry): pass", "neither async nor a generator"),
        ("def holdfast_register_hypervisors(registry): yield", "neither async nor a generator"),
        ("holdfast_register_hypervisors = Driver(0, 0).__init__", "unexpected keyword|Argument"),
        ("import functools; holdfast_register_hypervisors = functools.partial(print)", "must be a plain function"),
        ("def holdfast_register_hypervisors(registry): return []", "return nothing"),
        ("def holdfast_register_hypervisors(registry): 1 / 0", "ZeroDivisionError"),
        (
            "def holdfast_register_hypervisors(registry):\n"
            " registry.hypervisor('x', Driver, summary='s', api_version=2)",
            "version 2 of the plugin API, this Holdfast has version 1",
        ),
        (
            "def holdfast_register_hypervisors(registry):\n registry.hypervisor('X y', Driver, summary='s')",
            "lower-case letters",
        ),
        (
            "def holdfast_register_hypervisors(registry):\n registry.hypervisor('x', Driver, summary=' ')",
            "has no summary",
        ),
        (
            "def holdfast_register_hypervisors(registry):\n registry.hypervisor('x', None, summary='s')",
            "cannot be called",
        ),
        (
            "def holdfast_register_hypervisors(registry):\n"
            " registry.hypervisor('x', Driver, summary='s', options_type=Loose)",
            "options_type is not frozen",
        ),
        (
            "def holdfast_register_hypervisors(registry):\n"
            " registry.hypervisor('x', Driver, summary='s', snapshot_options_type=dict)",
            "snapshot_options_type is not a msgspec.Struct",
        ),
        (
            "class Odd(msgspec.Struct, frozen=True):\n a: 'Nowhere'\n"
            "def holdfast_register_hypervisors(registry):\n"
            " registry.hypervisor('x', Driver, summary='s', options_type=Odd)",
            "annotation that cannot be resolved: .*Nowhere",
        ),
        (
            "def holdfast_register_change_trackers(registry):\n"
            " registry.change_tracker('x', Driver, summary='s', hypervisor='')",
            "for which hypervisor",
        ),
        (
            "def holdfast_register_hypervisors(registry):\n"
            " registry.hypervisor('x', Driver, summary='s'); registry.hypervisor('x', Driver, summary='s')",
            "registers the hypervisor 'x' twice",
        ),
    ],
)
def test_a_broken_plugin_is_reported_and_others_are_not_touched(plugins: Plugins, body: str, reason: str) -> None:
    plugins.module("broken", body + "\n")
    plugins.module("two", GOOD.format(name="beta"))
    host = PluginHost.load(extra=["broken", "two"])
    message = broken(host, "broken")
    assert re.search(reason, message), message
    assert report(host, "two").status is PluginStatus.LOADED
    assert not [entry for entry in host.report() if entry.name == "images" and entry.status != PluginStatus.LOADED]
    with pytest.raises(PluginMissing):
        host.hypervisor("x", {}, {}, "test")


def test_a_module_that_is_not_there_is_reported(plugins: Plugins) -> None:
    assert "No module named 'absent_module'" in broken(PluginHost.load(extra=["absent_module"]), "absent_module")


def test_two_plugins_that_provide_one_name_are_both_named(plugins: Plugins) -> None:
    plugins.module("one", GOOD.format(name="images"))
    host = PluginHost.load(extra=["one"])
    assert "the hypervisor 'images' is provided by the plugin 'images'" in broken(host, "one")
    assert report(host, "images").status is PluginStatus.LOADED


def test_two_plugins_of_one_name_are_told_apart(plugins: Plugins) -> None:
    plugins.module("one", GOOD.format(name="alpha"))
    plugins.module("two", GOOD.format(name="beta"))
    plugins.distribution("dist-a", {"same": "one"})
    plugins.distribution("dist-b", {"same": "two"})
    host = PluginHost.load()
    assert report(host, "same").status is PluginStatus.LOADED
    assert "from dist-a 1.0" in broken(host, "same (dist-b 1.0)")


def test_half_a_plugin_is_none(plugins: Plugins) -> None:
    plugins.module(
        "broken", GOOD.format(name="alpha") + GOOD.format(name="Bad").replace("hypervisors", "guest_processors")
    )
    host = PluginHost.load(extra=["broken"])
    assert broken(host, "broken")
    with pytest.raises(PluginMissing):
        host.hypervisor("alpha", {"address": "x"}, {}, "test")


def test_options_are_checked_strictly(plugins: Plugins) -> None:
    plugins.module("one", GOOD.format(name="alpha"))
    host = PluginHost.load(extra=["one"])
    with pytest.raises(UnknownConfigKey, match="options of server lab: unknown key 'adress'; did you mean 'address'"):
        host.hypervisor("alpha", {"adress": "x"}, {}, "options of server lab")
    with pytest.raises(ConfigInvalid, match="port"):
        host.check_options(Family.HYPERVISOR, "alpha", {"address": "x", "port": "443"}, "test")
    assert host.check_options(Family.HYPERVISOR, "alpha", {"address": "x"}, "test").port == 443
    with pytest.raises(UnknownConfigKey):
        host.snapshot_options("alpha", {"anything": 1}, "test")


def test_a_missing_plugin_names_the_nearest() -> None:
    host = PluginHost.load()
    with pytest.raises(PluginMissing, match="did you mean 'images'") as caught:
        host.hypervisor("image", {}, {}, "test")
    assert caught.value.exit_code == 10
    with pytest.raises(PluginMissing, match="did you mean 'scripts'"):
        host.guest_processor("script", {}, "test")


def registering(version: int) -> str:
    return (
        "def holdfast_register_hypervisors(registry):\n"
        f" registry.hypervisor('x', Driver, summary='s', api_version={version})\n"
    )


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_this_version_of_the_api_and_the_one_before_are_taken(
    plugins: Plugins, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    monkeypatch.setattr(checks, "API_VERSION", 4)
    monkeypatch.setattr(checks, "OLDEST_API_VERSION", 3)
    plugins.module("one", registering(version))
    host = PluginHost.load(extra=["one"])
    if version in (2, 5):
        assert f"version {version} of the plugin API, this Holdfast has version 4 and takes 3" in broken(host, "one")
        return
    loaded = report(host, "one")
    assert loaded.status is PluginStatus.LOADED
    if version == 4:
        assert loaded.warnings == ()
    else:
        assert "version 3 of the plugin API, which the next version of Holdfast's (5) will refuse" in loaded.warnings[0]


def test_a_plugin_that_does_not_say_its_version_is_of_the_first() -> None:
    registry = Registry()
    registry.hypervisor("x", lambda options, secret: None, summary="s")  # type: ignore[arg-type,return-value] # never called
    registry.guest_processor("x", lambda options, secret: None, summary="s")  # type: ignore[arg-type,return-value] # ditto
    registry.change_tracker("x", lambda driver: None, summary="s", hypervisor="x")  # type: ignore[arg-type,return-value] # ditto
    assert {registration.api_version for registration in registry.registrations} == {1}


def test_a_plugin_that_hangs_at_its_import_is_left_out(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "LOADING_S", 0.2)
    plugins.module("broken", "import threading\nthreading.Event().wait(20)\n")
    plugins.module("two", GOOD.format(name="beta"))
    host = PluginHost.load(extra=["broken", "two"], disabled=[m.rpartition(".")[2] for m in BUILT_IN])
    assert "it was not loaded after 0 s" in broken(host, "broken")
    assert report(host, "two").status is PluginStatus.LOADED
