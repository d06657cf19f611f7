"""One file, one way to judge an answer; the file's name is what `--metrics` takes.

A file exposes `build(**options) -> Metric` (see `ingest.evaluate.metric`). `NEEDS_IMAGE = True` declares that it looks
at the picture, `LOWER_IS_BETTER = True` that 0 is the best value; otherwise higher is better. A file whose name begins
with an underscore is a helper.
"""
