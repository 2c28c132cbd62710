"""The command line of the agent: ``holdfast-agent init | authorize | run | show``, one file per command."""
