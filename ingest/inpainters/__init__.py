"""One file, one way to remove a thing from a picture; the file's name is what `--inpainter` takes.

A file exposes `build(**options) -> Inpainter` (see `ingest.data.counterfactuals`).
"""
