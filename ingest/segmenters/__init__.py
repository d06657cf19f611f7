"""Where in a picture a thing is: one file each, with `build(**options) -> Segmenter`."""
