"""Traffic rules: how fast tasks may send, over how many streams, and by which networks.

``windows``, ``rules``, ``shares`` and ``routes`` decide and know nothing but values; ``ledger`` keeps the decisions in
the catalogue, where all session processes see them. No service need run.
"""
