"""Write the methods of `Atlas` that ask questions: `python -m atlas.api.write_questions`.

Type checkers and editors read `atlas/api/questions.py`, so it is a file and not made when it is imported. It is written
from the files of `atlas/questions/`, and is to be written again when one is added, renamed or removed.
"""

from __future__ import annotations

from pathlib import Path

import atlas.questions
from atlas import registry
from atlas.api.ask import question_named

FILE = Path(__file__).with_name("questions.py")

HEADER = '''"""The questions as methods of `Atlas`.

Written by `python -m atlas.api.write_questions` from `atlas/questions/`: write it again, do not edit it.
"""

from __future__ import annotations

from atlas.api.ask import method_of
'''


def module_text() -> str:
    """The text of `atlas/api/questions.py`: one method a question, named after its file."""
    classes = {name: question_named(name).__name__ for name in registry.folder_names(atlas.questions)}
    imports = [f"from atlas.questions.{name} import {kind}" for name, kind in classes.items()]
    methods = [f"    {name} = method_of({kind})" for name, kind in classes.items()]
    body = ["", "", "class Questions:", '    """One method a question."""', "", *methods]
    return "\n".join([HEADER.rstrip("\n"), *imports, *body]) + "\n"


if __name__ == "__main__":
    FILE.write_text(module_text(), encoding="utf-8")
