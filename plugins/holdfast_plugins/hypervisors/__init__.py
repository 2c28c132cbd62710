"""Hypervisor plugins that come with Holdfast."""
