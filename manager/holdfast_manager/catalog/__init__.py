"""The configuration database: servers, agents, repositories, jobs, and the history of sessions.

``Catalog`` is the door; ``values`` is what goes in and out of it.
"""

from .catalog import Catalog

__all__ = ["Catalog"]
