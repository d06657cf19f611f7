"""One file, one rule that labels neurons from stored maps; the file's name is its name on the command line.

A file exposes `build(**parameters) -> Rule` (see `ingest.analyse.labelling`).
"""
