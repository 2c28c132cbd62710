"""The Broker Service: answers VM and host facts from a cache of the hypervisor's inventory."""

from .broker import Broker

__all__ = ["Broker"]
