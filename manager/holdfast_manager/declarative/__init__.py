"""The wished configuration as a TOML file, and how the catalogue is brought to it: `holdfast apply`.

:mod:`document` reads the file; :mod:`planning` compares it with the catalogue, checks everything that can be checked,
and carries the plan out.
"""
