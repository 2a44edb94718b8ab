"""The command line: the only place that parses, prints and writes.

A command is short: options → frozen config → pure call → render.
"""
