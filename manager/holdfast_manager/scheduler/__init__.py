"""The resource scheduler: who may work on which proxy and repository, and who waits for what.

``placement`` decides and knows nothing but numbers; ``slots`` keeps the decisions in the catalogue, where all
session processes see them. No service need run.
"""
