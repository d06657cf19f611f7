"""One file, one figure of an answer; the file's name is that of the question or request whose answer it draws.

A file exposes `draw(answer, *, ax=None) -> matplotlib.axes.Axes`. matplotlib (extra `plots`) is imported inside it.
"""
