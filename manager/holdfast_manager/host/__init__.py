"""The plugin host: loads plugins, checks what they register, and hands out their objects through typed methods."""

from .host import PluginHost
from .report import PluginReport, PluginStatus, Provided

__all__ = ["PluginHost", "PluginReport", "PluginStatus", "Provided"]
