"""From rows of the catalogue to what people and programs read. Pure: no database, no terminal, no clock.

:mod:`session_report` gathers one session into values (which are also its JSON), :mod:`session_text` writes them down;
:mod:`sentences` says what one event means.
"""
