"""One file, one way to take a thing out of a picture; the file's name is what `--inpainter` takes.

A file exposes `build(**options) -> Inpainter` (see `ingest.data.counterfactuals`).
"""
