"""The web console: pages over the catalogue, served over TLS by a process of its own beside the Backup Service.

Pages are made here and read without scripts; one small script keeps what is live up to date. Nothing of a page comes
from anywhere else.
"""
