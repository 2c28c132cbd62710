"""Who may do what on a manager that several people share, and how it is known who they are.

- ``roles``: the rights that each role gives, as a pure table.
- ``commands``: for every command the right that it takes, whether it changes anything, and whether it travels.
- ``actor``: who acts, from where, with which rights: what is checked and what is written down.
- ``passwords``, ``tokens``: proofs of identity that people type or programs send; only their hashes are kept.
- ``chain``: how the rows of the audit log hold on to each other, so that none can go unseen.

The users themselves are kept by ``Catalog.users``, what they did by ``Catalog.audit``. Whoever lets people in from
outside (the API, a web page) does the same four things for each request:

1. know the user: ``catalog.users.login(name, password)`` or ``.by_token(token)``, which raise ``AccessRefused`` for who
   is unknown or disabled; by the key of a connection ``api.admission``. Ask anew for every request: a user may be
   disabled at any moment.
2. make the actor: ``Actor.of(user, "web 10.0.0.7")``.
3. check before anything is done: ``actor.require(Right.OPERATE)``, or for a command of the command line
   ``actor.require(rule_of(("job", "run")).right, "job run")``. Raises ``Denied``.
4. write down what changes something: ``with catalog.audit.act(actor, "job run", "nightly"): …``.
"""
