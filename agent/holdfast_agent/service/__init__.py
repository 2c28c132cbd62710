"""The Transport Service: the agent's daemon, which answers managers and keeps their Data Movers."""
