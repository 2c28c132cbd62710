"""The nursery of commands: a process of the Backup Service that has loaded them, and forks one for who types it.

Loading takes longer than most commands do: a third of a second, of which SQLAlchemy takes half. While the service runs,
a command of :data:`~.asking.QUICK` is asked for over a local socket (:mod:`.door`) and lives as a fork of
:mod:`.template`, with the arguments, the environment and the standard streams of who typed it. Nothing depends on it:
where no service runs, or it is of another version, the command line loads all by itself.
"""
