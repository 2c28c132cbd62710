"""The ways to the bytes of a snapshot's disk: which there are for a disk and a proxy, and the URLs of each."""

from .transports import Source, Transports
from .urls import flat_url, folder_url

__all__ = ["Source", "Transports", "flat_url", "folder_url"]
