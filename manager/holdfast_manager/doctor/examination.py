"""All of it, in the order in which things are set up."""

from __future__ import annotations

from collections.abc import Iterator

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.errors import HoldfastError
from holdfast_manager.catalog import Catalog
from holdfast_manager.host import PluginHost
from holdfast_manager.settings import ManagerSettings

from .findings import Finding, Level, good, of_error
from .home import examine_home, examine_plugins, examine_service
from .peers import examine_agents, examine_jobs, examine_repositories, examine_servers


def examine(settings: ManagerSettings, host: PluginHost) -> Iterator[Finding]:
    """Look at everything, change nothing but what each opening of a repository clears away.

    Takes as long as the slowest peer needs to answer, or not to.
    """
    from holdfast_manager.service.leadership import leadership

    home = list(examine_home(settings))
    yield from home
    yield from examine_plugins(host)
    if any(finding.level is Level.MISSING for finding in home):
        return
    try:
        with Catalog.open(settings) as catalog:
            yield good("database", "it can be read, and is up to date")
            keys = KeyPair.load(settings.identity_file)
            yield from examine_agents(catalog, keys)
            yield from examine_servers(catalog, host)
            yield from examine_repositories(catalog, keys)
            yield from examine_jobs(catalog)
            yield from examine_service(catalog, leadership(settings, catalog).is_taken())
    except HoldfastError as error:
        yield of_error("database", error)
