"""The Holdfast manager: catalogue, sessions, plugin host and command line."""
