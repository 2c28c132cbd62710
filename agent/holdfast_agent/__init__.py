"""The Holdfast agent: the Transport Service and the data movers of a proxy or repository host."""

__version__ = "0.1.0"
