"""Version of the control protocol.

The major number changes when an older peer would misunderstand; it is refused at ``Hello``. The minor number
grows when messages or optional fields are added; both sides then speak the lower one.
"""

PROTOCOL_MAJOR = 1
PROTOCOL_MINOR = 3
