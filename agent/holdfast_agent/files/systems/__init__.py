"""File systems, each by the library that knows it, all in one shape: :class:`.nodes.Node`."""
