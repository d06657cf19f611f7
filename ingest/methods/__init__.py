"""One file, one method; the file's name is its name on the command line, in the job and in the database.

A file exposes `build(**parameters) -> Method` (see `ingest.attribution.estimators`); its docstring's first line is what
`atlas methods` prints.
"""
