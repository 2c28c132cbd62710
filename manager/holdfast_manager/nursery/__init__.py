"""The nursery: a process of the Backup Service that has loaded what commands and sessions need, and forks them.

Loading takes longer than most commands do: a third of a second, of which SQLAlchemy takes half. While the service runs,
a command of :data:`~.asking.QUICK`, and each session that the service or a session starts, is asked for over a local
socket (:mod:`.door`) and lives as a fork of :mod:`.template`: with all that it would have from who typed or started it.
Nothing depends on it: where no service runs, or it is of another version, each loads all by itself.
"""
