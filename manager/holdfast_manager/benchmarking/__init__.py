"""How fast a proxy and a repository are together, stage by stage, and what that means for a job: `holdfast benchmark`.

:mod:`passes` runs real movers over a throw-away target; :mod:`prediction` makes figures of what they counted.
"""
