"""Hypervisor, guest-processing and change-tracking plugins, and the API that third parties write theirs against."""
