"""The one place that knows pluggy: finds hooks by their names and calls those of one plugin.

Plugin authors import no marker: a function whose name begins with ``holdfast_`` is a hook. pluggy checks argument
names only, never passes arguments that have defaults, and knows nothing of coroutines; so these are refused here.
"""

from __future__ import annotations

import inspect
from typing import Any

import pluggy

from holdfast_plugins.api import hooks
from holdfast_plugins.api.registry import Registration, Registry

PREFIX = "holdfast_"


class HookError(Exception):
    """A plugin's hooks are not as they must be; the text says which and why."""


class HookManager(pluggy.PluginManager):
    """All registered plugins and their hooks."""

    def __init__(self) -> None:
        super().__init__("holdfast")
        self.add_hookspecs(hooks)

    def collect(self, plugin: Any, name: str) -> list[Registration]:
        """Take in ``plugin`` and call its hooks. Returns what it registered, in its order.

        Raises :class:`HookError`, or whatever the plugin raises; the plugin is then not registered.
        """
        try:
            self.register(plugin, name)
            self.check_pending()
            registry = Registry()
            self._call_all(plugin, registry)
        except pluggy.PluginValidationError as error:
            self.expel(plugin)
            raise HookError(" ".join(str(error).split())) from error
        except BaseException:
            self.expel(plugin)
            raise
        return registry.registrations

    def expel(self, plugin: Any) -> None:
        """Forget ``plugin``; harmless when it is not, or only half, registered."""
        if self.is_registered(plugin):
            self.unregister(plugin)

    def _call_all(self, plugin: Any, registry: Registry) -> None:
        others = [other for other in self.get_plugins() if other is not plugin]
        for caller in self.get_hookcallers(plugin) or ():
            results = self.subset_hook_caller(caller.name, others)(registry=registry)
            if results:
                raise HookError(f"{caller.name} must register through its argument and return nothing")

    def parse_hookspec_opts(self, module_or_class: Any, name: str) -> pluggy.HookspecOpts | None:
        if not name.startswith(PREFIX):
            return None
        return {"firstresult": False, "historic": False, "warn_on_impl": None, "warn_on_impl_args": None}

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> pluggy.HookimplOpts | None:
        if not name.startswith(PREFIX):
            return None
        # Static look-up: a property of a plugin object must not run merely because somebody looked.
        found = inspect.getattr_static(plugin, name)
        function = found.__func__ if isinstance(found, staticmethod | classmethod) else found
        if not inspect.isfunction(function) and not inspect.ismethod(function):
            if callable(function) and not inspect.isclass(function):
                raise HookError(f"{name} must be a plain function")
            return None
        _refuse_unusable(name, function)
        return {
            "wrapper": False, "hookwrapper": False, "optionalhook": False,
            "tryfirst": False, "trylast": False, "specname": None,
        }  # fmt: skip


def _refuse_unusable(name: str, function: Any) -> None:
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise HookError(f"{name} must be a plain function, neither async nor a generator")
    for parameter in inspect.signature(function).parameters.values():
        if parameter.default is not parameter.empty:
            raise HookError(
                f"{name}: the argument {parameter.name!r} must not have a default; it would never be passed"
            )
