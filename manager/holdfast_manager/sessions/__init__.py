"""Sessions: pure state machines that decide, and a driver that does what they decide.

Read :mod:`steps` for the ten steps, :mod:`backup_machine` for the order in which they follow each other,
:mod:`backup_actions` for what each of them does, and :mod:`kinds` for what the other kinds of sessions are made of.
"""
