"""Retention: which restore points a policy keeps, and the pruning of the others.

``policy`` and ``simulation`` are pure; ``pruning`` asks the repository's agent, which has the last word.
"""
