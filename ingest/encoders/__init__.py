"""One file, one encoder of texts (and of pictures or recordings); the file's name is what `--encoder` takes.

A file exposes `build(model, **options) -> Encoder` (see `ingest.embed.encoder`); model is the part after the colon of
`--encoder NAME:ID_OR_FOLDER`, or "". A file whose name begins with an underscore is a helper.
"""
