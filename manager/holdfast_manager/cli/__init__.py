"""The command `holdfast`: one file per group of commands; read :mod:`main` for how errors become exit codes."""
