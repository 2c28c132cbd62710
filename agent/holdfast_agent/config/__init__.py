"""The agent's configuration: one TOML file into frozen values, once at start."""
