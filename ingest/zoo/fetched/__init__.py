"""Known models that are not embedded: one file each, with its sources, licence and size, and how it is built."""
