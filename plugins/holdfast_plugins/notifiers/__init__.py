"""Notifiers that come with Holdfast. Libraries of the network are imported when something is sent: every session loads
these modules, and few of them send."""
