"""Every question of the folder: its command, its method of `Atlas`, and how its messages name its fields."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
import typer

import atlas.questions
from atlas import Atlas, registry
from atlas.api import write_questions
from atlas.api.ask import question_named
from atlas.errors import UsageError
from atlas.query.answer import Answer
from atlas.query.option import name_of, options_of
from atlas.query.question import Question
from cli.common import in_flags
from cli.main import WITHIN, make_app, questions

Run = Callable[..., tuple[int, str, str]]

NAMES = registry.folder_names(atlas.questions)
DERIVED = sorted({*questions(None).values(), *WITHIN})
"""Questions whose command is made from the class; those of the others have options beside the question's."""


def path_of(name: str) -> list[str]:
    """The command that asks a question."""
    return WITHIN.get(name, name.replace("_", "-")).split()


def parameters(name: str) -> dict[str, Any]:
    """The parameters of a question's command."""
    command: Any = typer.main.get_command(make_app())
    for word in path_of(name):
        command = command.commands[word]
    return {parameter.name: parameter for parameter in command.params}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Question[Any]]]:
    """Every question that is put from here on; none is checked, and none is answered with rows."""
    import pyarrow as pa

    seen: list[Question[Any]] = []

    def answer(question: Question[Any], path: Path) -> Answer:
        seen.append(question)
        return Answer(pa.table({"n": [1]}))

    for name in NAMES:
        kind = question_named(name)
        monkeypatch.setattr(kind, "answer", answer)
        monkeypatch.setattr(kind, "__post_init__", lambda self: None, raising=False)
    yield seen


def test_every_field_is_described_and_every_file_is_a_command_or_has_one() -> None:
    assert len(NAMES) > 20 and set(DERIVED) <= set(NAMES)
    for name in NAMES:
        kind = question_named(name)
        assert name_of(kind) == name
        assert set(options_of(kind)) == {f.name for f in fields(kind)}
        assert all(about.help.strip().endswith((".", "]", ")")) for about in options_of(kind).values()), name
        assert kind.examples and all(example.startswith("atlas ") for example in kind.examples)
        assert parameters(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_command_has_one_option_a_field_spelled_as_it_says(name: str) -> None:
    found = parameters(name)
    for field, about in options_of(question_named(name)).items():
        parameter = found[field]
        assert (parameter.param_type_name == "argument") is about.argument
        if not about.argument:
            assert tuple(parameter.opts) == (about.flags or (f"--{field.replace('_', '-')}",))
        assert name not in DERIVED or (parameter.help == in_flags(about.help) and "[[" not in parameter.help)


@pytest.mark.parametrize("name", DERIVED)
def test_a_derived_command_has_nothing_but_the_fields_and_what_all_have(name: str) -> None:
    common = {"form", "as_json", "as_csv", "spreadsheet", "explain", "fail_empty", "atlas", "help"}
    shown = set(options_of(question_named(name)))
    assert set(parameters(name)) == shown | common - {"help"}


def example(kind: type[Question[Any]], field: str) -> tuple[list[str], object]:
    """Words of a command line that give a field, and the value that the question has then."""
    hint = get_type_hints(kind)[field]
    default = next(f.default for f in fields(kind) if f.name == field)
    about = options_of(kind)[field]
    if hint is bool:
        return [(about.flags or (f"--{field.replace('_', '-')}",))[0]], True
    kinds = {hint, *get_args(hint)}
    text, value = f"a-{field}", f"a-{field}"
    if int in kinds and str not in kinds:
        text, value = "7", 7
    elif get_origin(hint) is tuple or isinstance(default, tuple):
        text, value = "one,two", ("one", "two")
    return ([text] if about.argument else [(about.flags or (f"--{field.replace('_', '-')}",))[-1], text]), value


@pytest.mark.parametrize("name", DERIVED)
def test_a_command_passes_what_is_given_and_nothing_else(
    name: str, asked: list[Question[Any]], run: Run, tmp_path: Path
) -> None:
    kind = question_named(name)
    given = {field: example(kind, field) for field in options_of(kind)}
    place = ("--atlas", tmp_path / "an.atlas")
    code, out, err = run(*path_of(name), *(word for words, _ in given.values() for word in words), *place)
    assert (code, out) == (0, '{"n": 1}\n'), err
    assert asked.pop() == kind(**{field: value for field, (_, value) in given.items()})
    needed = {f.name: given[f.name] for f in fields(kind) if f.default is MISSING}
    code, _, err = run(*path_of(name), *(word for words, _ in needed.values() for word in words), *place)
    assert code == 0, err
    assert asked.pop() == kind(**{field: value for field, (_, value) in needed.items()}) and not asked


@pytest.mark.parametrize("name", NAMES)
def test_a_method_of_the_atlas_has_the_questions_signature_and_documentation(
    name: str, asked: list[Question[Any]]
) -> None:
    kind, method = question_named(name), getattr(Atlas, name)
    first, *own = inspect.signature(method).parameters.values()
    assert first.name == "self" and own == list(inspect.signature(kind).parameters.values())
    assert method.__doc__ == kind.__doc__
    values = {f.name: example(kind, f.name)[1] for f in fields(kind)}
    answer = getattr(Atlas("an.atlas"), name)(**values)
    assert asked == [kind(**values)] and answer.question == kind(**values)


def test_the_methods_are_those_that_the_folder_gives() -> None:
    assert write_questions.FILE.read_text(encoding="utf-8") == write_questions.module_text()


def test_the_file_of_methods_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that is added is a method of the file that is written then."""
    extra = tmp_path / "halves.py"
    extra.write_text(
        "from atlas.query.option import described\nfrom atlas.query.question import Question\n\n\n@described\n"
        "class Halves(Question):\n    'Halves.'\n\n    def answer(self, path):\n        raise NotImplementedError\n"
    )
    monkeypatch.setattr(atlas.questions, "__path__", [*atlas.questions.__path__, str(tmp_path)])
    text = write_questions.module_text()
    assert "from atlas.questions.halves import Halves\n" in text and "    halves = method_of(Halves)\n" in text


@pytest.mark.parametrize(
    ("command", "ask", "typed", "keyword"),
    [
        (["shared", "--concept", "dog", "--top", "0"], lambda a: a.shared("dog", top=0), "--top must", "top must"),
        (["query"], lambda a: a.query(), "give --concept, ", "give concept, "),
        (["query"], lambda a: a.query(), "--token bark", "token='bark'"),
        (["count"], lambda a: a.count(), "--score '>0.1'", "score='>0.1'"),
        (["labels", "show", "--by-layer"], lambda a: a.labels(by_layer=True), "give the RUN ", "give the run "),
        (["labels", "show", "x", "--by-layer", "--label", "y"], lambda a: a.labels("x", by_layer=True, label="y"),
         "--by-layer counts every label; leave out --label", "by_layer counts every label; leave out label"),
        (["match", "a", "b"], lambda a: a.match("a", "b"), "give the --concept ", "give the concept "),
        (["layers", "--concept", "dog", "--sources", "image,image"],
         lambda a: a.layers("dog", sources=("image", "image")), "give two --sources", "give two sources"),
    ],
)  # fmt: skip
def test_a_message_names_the_flag_on_the_command_line_and_the_keyword_in_python(
    command: list[str], ask: Callable[[Atlas], object], typed: str, keyword: str, run: Run, stored_atlas: Path
) -> None:
    code, out, err = run(*command, "--atlas", stored_atlas)
    assert (code, out) == (2, "") and err.count("\n") == 1 and typed in err
    with pytest.raises(UsageError) as raised:
        ask(Atlas(stored_atlas))
    told = re.sub(r"`[^`]*`", "", str(raised.value))  # without the command lines that it quotes
    assert keyword in told and "--" not in told
    assert "[[" not in err + str(raised.value)


def messages() -> Iterator[tuple[str, str]]:
    """The errors of the files of questions, with {} for what is filled in."""
    import ast

    for file in Path(atlas.questions.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "UsageError":
                [said] = node.args
                parts = said.values if isinstance(said, ast.JoinedStr) else [said]
                yield file.stem, "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in parts)


def test_no_question_writes_a_flag_and_every_field_it_names_is_one_of_its_own() -> None:
    found = list(messages())
    assert len(found) > 20
    of_helpers = {field for name in NAMES for field in options_of(question_named(name))}
    for stem, text in found:
        assert not re.search(r"--[a-z]", re.sub(r"`[^`]*`", "", text)), text
        own = of_helpers if stem.startswith("_") else set(options_of(question_named(stem)))
        assert {match[1] for match in re.finditer(r"\[\[(\w+)", text)} <= own, text


NEEDED = {
    "agreement": [],
    "count": ["--score", ">0"],
    "effects": [],
    "exemplars": ["1/5"],
    "layers": ["--concept", "dog"],
    "leaderboard": [],
    "measures": [],
    "neuron": ["1/5"],
    "only": ["--concept", "dog"],
    "query": ["--layers", "0"],
    "search": ["dog"],
    "shared": ["--concept", "dog"],
}
"""Questions that an atlas of one run answers, with what each needs."""

NAMED = ("model", "dataset", "supercategory", "concept", "method", "source", "target", "reduce", "component", "tap")
NAMES_OF = [
    (name, field)
    for name in NEEDED
    for field, about in options_of(question_named(name)).items()
    if field in (*NAMED, "run", "edit", "name", "reference", "label", "selection") and not about.argument
]


@pytest.mark.parametrize(("name", "field"), NAMES_OF)
def test_a_name_that_the_atlas_does_not_have_is_refused_and_not_passed_over(
    name: str, field: str, stored_atlas: Path, run: Run
) -> None:
    """Else an option that is read by nothing, or finds nothing, would be an answer to another question."""
    path, place = path_of(name), ("--atlas", stored_atlas)
    needed = NEEDED[name]
    assert run(*path, *needed, *place)[0] == 0
    flag = (options_of(question_named(name))[field].flags or (f"--{field.replace('_', '-')}",))[0]
    if flag in needed:
        needed = [*needed[: needed.index(flag)], *needed[needed.index(flag) + 2 :]]
    code, out, err = run(*path, *needed, flag, "nosuch", *place)
    assert (code, out) == (2, "") and err.splitlines()[-1].startswith("atlas: "), err


BOUNDED = [
    (name, field, about.least)
    for name in NAMES
    for field, about in options_of(question_named(name)).items()
    if about.least is not None
]


@pytest.mark.parametrize(("name", "field", "least"), BOUNDED)
def test_a_number_below_its_least_is_refused_before_anything_is_read(name: str, field: str, least: int) -> None:
    """Also where a question has rules of its own: 0 is neither a default nor left open."""
    kind = question_named(name)
    needed = {f.name: "0/1" for f in fields(kind) if f.default is MISSING}  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=f"{field} must be at least {least}"):
        kind(**(needed | {field: least - 1}))


def test_every_count_of_rows_has_a_least() -> None:
    counts = {(name, f) for name in NAMES for f in options_of(question_named(name)) if f in ("top", "limit")}
    assert counts == {(name, field) for name, field, _ in BOUNDED}
