"""One file per question: its fields, its checks and its answer; the file's name is its name everywhere.

A file has one class made by `atlas.query.option.described` from `atlas.query.question.Question`. The command, its
options and the method of `Atlas` derive from it. A file whose name begins with an underscore is a helper.
"""
