"""Errors in configuration files, declarative files and plugin options."""

from __future__ import annotations

from .base import HoldfastError


class ConfigError(HoldfastError):
    """Family: something in a configuration must be mended by the administrator."""

    exit_code = 2


class ConfigNotFound(ConfigError):
    code = "config_not_found"
    message = "the file {file} does not exist"
    action = "{advice}"


class ConfigUnreadable(ConfigError):
    """Not TOML 1.0, not UTF-8, or not readable."""

    code = "config_unreadable"
    message = "{file}: {reason}"
    action = "Mend the file: it must be TOML 1.0 in UTF-8, and readable for whoever runs this"


class UnknownConfigKey(ConfigError):
    """A key that nothing reads; ``nearest`` is the closest known key, with its leading words, or empty."""

    code = "config_unknown_key"
    message = "{file}: unknown key {key!r}{nearest}"
    action = "Correct or remove the key; nothing is ignored silently"


class ConfigInvalid(ConfigError):
    """A known key with a value of the wrong type or out of range."""

    code = "config_invalid"
    message = "{file}: {key}: {reason}"
    action = "Correct the value"
