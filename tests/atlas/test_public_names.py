"""What `atlas` offers by name: every name is there, documented, and typed for checkers."""

from __future__ import annotations

import ast
import importlib
import inspect
import operator
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import atlas
from atlas import plugins
from atlas.api.ask import method_of, question_named
from atlas.errors import UsageError

SOURCE = Path(atlas.__file__)
PUBLIC = [
    "Answer",
    "Atlas",
    "AtlasError",
    "IntegrityError",
    "Neuron",
    "NeuronSet",
    "StoreUnavailable",
    "StoredEdit",
    "Unsupported",
    "UsageError",
    "ablate",
    "datasets",
    "get_model",
    "load_model",
    "mean",
    "minimum",
    "noise",
    "scale",
    "set_to",
    "steer",
    "write_noise",
]


def test_these_are_the_public_names() -> None:
    """A name that is added or taken away is a decision: it is written here too."""
    assert sorted(atlas.__all__) == PUBLIC == dir(atlas)
    with pytest.raises(AttributeError, match="no attribute 'Atlass'"):
        _ = atlas.Atlass


def test_type_checkers_see_the_same_names() -> None:
    seen = set()
    for node in ast.parse(SOURCE.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.If):
            for imported in node.body:
                assert isinstance(imported, ast.ImportFrom)
                for alias in imported.names:
                    assert alias.asname == alias.name
                    seen.add(alias.name)
                    module = importlib.import_module(str(imported.module))
                    shown = getattr(atlas, alias.name)
                    assert shown is getattr(module, alias.name, shown)
    assert seen == set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name: str) -> None:
    named = getattr(atlas, name)
    assert inspect.getdoc(named), name
    if inspect.isclass(named):
        for member_name, member in inspect.getmembers(named):
            if not member_name.startswith("_") and (inspect.isroutine(member) or isinstance(member, property)):
                assert inspect.getdoc(member), f"{name}.{member_name}"


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, atlas; dir(atlas); print([m for m in ('torch', 'numpy', 'duckdb', 'typer') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    code = "import sys; from atlas import *; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_datasets_are_named_as_the_command_line_names_them(tmp_path: Path) -> None:
    from atlas import datasets

    coco = datasets.coco(tmp_path, captions="first")
    assert str(coco) == f"coco:{tmp_path}" and coco.options == {"captions": "first"}
    assert str(datasets.scenes()) == "scenes" and "coco" in dir(datasets)
    with pytest.raises(AttributeError, match="no dataset called 'cocoo'; did you mean 'coco'"):
        datasets.cocoo()


def test_a_question_of_a_plug_in_is_a_method(monkeypatch: pytest.MonkeyPatch, stored_atlas: Path) -> None:
    """The question stands in for one that another distribution adds."""
    from atlas.questions.count import Count

    module = types.ModuleType("elsewhere.howmany")
    module.__dict__["HowMany"] = type("HowMany", (Count,), {"__module__": module.__name__})
    monkeypatch.setitem(sys.modules, module.__name__, module)
    plugin = plugins.Plugin("questions", "howmany", module.__name__, "elsewhere", "1.0")
    monkeypatch.setattr(plugins, "installed", lambda kind: [plugin] if kind == "questions" else [])
    opened = atlas.Atlas.open(stored_atlas)
    assert "howmany" in dir(opened)
    answer = opened.howmany("dog", "contribution", source="text", reduce="mean")
    assert answer.facts == opened.count("dog", "contribution", source="text", reduce="mean").facts
    with pytest.raises(AttributeError, match="'Atlas' has no attribute 'how'"):
        _ = opened.how


def test_options_that_do_not_go_together_are_named_as_keywords(stored_atlas: Path) -> None:
    opened = atlas.Atlas.open(stored_atlas)
    for call, message in (
        (
            lambda: opened.ingest("x", device="cuda", device_map="auto"),
            "device_map chooses the devices; leave out device",
        ),
        (lambda: opened.ingest("x", per_concept=0), "per_concept must be at least 1"),
        (lambda: opened.ingest(param={"norm": 1}), "param='norm=...' needs a method of this job before the dot"),
        (lambda: opened.evaluate(), "name an edit, or a method"),
        (lambda: opened.evaluate("x", doses=["40"]), "reduce, target and doses choose neurons for method"),
        (lambda: opened.solve("x", word="dog", target="sound"), "target text or image, not 'sound'"),
        (lambda: opened.solve("x", word="dog", to="dog", target="image"), "'dog' would become itself; give another to"),
        (lambda: opened.solve("x", word="dog", image=["a.png"]), "image needs the question about it"),
    ):
        with pytest.raises(UsageError, match=message):
            call()


def test_methods_have_the_signature_of_what_they_ask() -> None:
    assert inspect.signature(method_of(question_named("count"))).parameters.keys() == (
        inspect.signature(atlas.Atlas.count).parameters.keys()
    )
    parameters = inspect.signature(atlas.Atlas.ingest).parameters
    assert list(parameters)[:3] == ["self", "model", "dataset"] and "per_concept" in parameters
    assert atlas.Atlas.ingest.__name__ == "ingest" and "maps" in str(inspect.getdoc(atlas.Atlas.ingest))


def test_values_of_other_types_are_converted_or_refused(stored_atlas: Path) -> None:
    opened = atlas.Atlas.open(stored_atlas)
    for call, message in (
        (lambda: opened.query("dog", top="few"), "top: few is not a number of neurons, at least 1, or a share of them"),
        (lambda: opened.query("dog", top=True), "top must be a whole number or a string, not True"),
        (lambda: opened.query(["dog", "cat"]), r"concept must be a string, not \['dog', 'cat'\]"),
        (lambda: opened.neuron((0, 1)), r"address must be a string or a Neuron, not \(0, 1\)"),
        (lambda: opened.ingest("x", per_concept="3"), "per_concept must be a whole number, not '3'"),
        (lambda: opened.ingest("x", methods={"contribution": {}}), "methods must be a list of names, or one text"),
        (lambda: opened.ingest("x", concepts=[]), "concepts names nothing; give one or more, or leave it out"),
        (lambda: opened.ingest("x", options="seed=1"), "options must be a dictionary, not 'seed=1'"),
        (lambda: opened.generate("x", image=3), "image must be a list of names"),
    ):
        with pytest.raises(UsageError, match=message):
            call()
    as_text = opened.shared("dog", method="contribution", sources="image,text", reduce="mean", top=2)
    as_list = opened.shared("dog", method="contribution", sources=["image", "text"], reduce="mean", top=np.int64(2))
    assert as_text.neurons == as_list.neurons


def test_one_picture_is_one_name_and_paths_may_be_text() -> None:
    from ingest.requests.evaluate import Evaluate
    from ingest.requests.generate import Generate

    request = Generate("what is this?", image="dog.png", draw="drawn.png", model=Path("a/model"))
    assert (request.image, request.draw, request.model) == (("dog.png",), Path("drawn.png"), "a/model")
    assert Evaluate(method="contribution", doses=[40, "1%"]).doses == ("40", "1%")
    assert Evaluate(method="contribution", doses=40).doses == ("40",)


def test_an_edit_is_evaluated_by_its_label_or_as_it_is(own_atlas: Path) -> None:
    from ingest.requests.evaluate import Evaluate

    opened = atlas.Atlas.open(own_atlas)
    stored = opened.create_edit("as-it-is", opened.query("dog", "contribution", source="text"), atlas.ablate())
    assert Evaluate(stored) == Evaluate(stored.label)


def test_rows_slices_and_members_of_a_set_of_neurons(stored_atlas: Path) -> None:
    opened = atlas.Atlas.open(stored_atlas)
    dog = opened.query("dog", "contribution", source="text", reduce="mean", top=3)
    assert (dog[0], dog[-1]) == (dog.neurons[0], dog.neurons[2]) and dog[:2].neurons == dog.neurons[:2]
    assert str(dog[0]) in dog and "0/7777" not in dog
    concepts = opened.concepts()
    assert concepts[0] == concepts.to_pylist()[0] and list(concepts) == concepts.to_pylist()
    with pytest.raises(IndexError, match="no row 3; the answer has 3"):
        _ = dog[3]
    with pytest.raises(TypeError, match="rows by number and slices; not list"):
        _ = dog[[0]]  # type: ignore[call-overload]
    for operation in (operator.and_, operator.or_, operator.sub):
        with pytest.raises(TypeError, match="unsupported operand"):
            operation(dog, ["0/1"])
    with pytest.raises(UsageError, match="no figure shows an answer of concepts; there are figures of agreement"):
        concepts.plot()
    with pytest.raises(UsageError, match="no figure shows this answer"):
        (dog & dog).plot()


def test_an_edit_is_made_of_a_set_of_neurons_and_a_kind(stored_atlas: Path) -> None:
    opened = atlas.Atlas.open(stored_atlas)
    dog = opened.query("dog", "contribution", source="text", reduce="mean", top=3)
    for call, message in (
        (lambda: opened.create_edit("x", dog, "ablate"), "kind is ablate.*, not 'ablate'"),
        (lambda: opened.create_edit("x", dog, atlas.ablate), "kind is ablate.*, not "),
        (lambda: opened.create_edit("x", list(dog), atlas.ablate()), "neurons is a set of neurons, such as `query`"),
        (
            lambda: opened.create_edit("x", dog, atlas.ablate(), where=None),
            "where must be a string or Positions, not None",
        ),
        (lambda: opened.create_edit("x", dog, atlas.noise(1), seed="x"), "seed must be a whole number, not 'x'"),
        (lambda: opened.save_selection("x", ["0/1"]), "neurons is a set of neurons"),
        (lambda: opened.complement(["0/1"]), "neurons is a set of neurons"),
        (lambda: opened.solve("x", word="dog", neurons=["0/1"]), "neurons is a set of neurons"),
        (lambda: opened.compose_edits("x", "no-dog"), "compose two edits or more"),
        (lambda: opened.use(runs="zzz"), "no run called 'zzz'"),
        (lambda: atlas.scale(None), "scale=None is not a number"),
        (lambda: atlas.set_to(True), "set_to=True is not a number"),
        (lambda: atlas.steer("2sd"), "steer=2sd is not a number"),
        (lambda: atlas.set_to(float("inf")), "set_to=inf is out of range; give a finite number"),
        (lambda: atlas.scale(1), "scale=1 changes nothing"),
    ):
        with pytest.raises(UsageError, match=message):
            call()


def test_an_edit_of_a_difference_is_about_what_is_kept(own_atlas: Path) -> None:
    opened = atlas.Atlas.open(own_atlas)
    dog, cat = (opened.query(name, "contribution", source="text", top=9) for name in ("dog", "cat"))
    assert opened.create_edit("only-dog", dog - cat, atlas.ablate()).data.concept == "dog"
    opened.save_selection("only-dog-neurons", dog - cat)
    saved = opened.selection("only-dog-neurons")
    assert opened.create_edit("saved", saved, atlas.ablate()).data.concept == "dog"
    assert opened.create_edit("both", dog | cat, atlas.ablate()).data.concept is None


def test_an_atlas_is_found_from_the_home_folder_and_named_from_within(
    stored_atlas: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(stored_atlas.parent))
    assert atlas.Atlas.open(f"~/{stored_atlas.name}").path == stored_atlas
    monkeypatch.chdir(stored_atlas)
    assert repr(atlas.Atlas.open(".")).startswith(f"Atlas({stored_atlas.name}: ")


def test_arguments_that_do_not_exist_are_refused_by_the_name_of_the_method(stored_atlas: Path) -> None:
    opened = atlas.Atlas.open(stored_atlas)
    for call, message in (
        (lambda: opened.query("dog", methd="x"), r"^query\(\) got .* 'methd'; did you mean 'method'\?"),
        (lambda: opened.query("dog", "contribution", "image"), r"^query\(\) too many positional arguments"),
        (lambda: opened.neuron(), r"^neuron\(\) missing a required argument: 'address'"),
        (lambda: opened.generate("x", imge="a.png"), r"^generate\(\) got .*; did you mean 'image'\?"),
        (lambda: atlas.load_model(dtyp="x"), r"^load_model\(\) got .*; did you mean 'dtype'\?"),
    ):
        with pytest.raises(TypeError, match=message):
            call()
    assert {"model", "revision", "dtype", "device"} <= set(inspect.signature(atlas.load_model).parameters)


def test_a_run_renders_its_size_and_cost_also_where_it_was_done_before(stored_atlas: Path, tmp_path: Path) -> None:
    import shutil

    opened = atlas.Atlas.open(shutil.copytree(stored_atlas, tmp_path / "run.atlas"))
    asked = {"concepts": ["dog"], "methods": "contribution", "per_concept": 1, "sources": "text"}
    first, again = (opened.ingest("tiny-llava", "scenes", **asked) for _ in range(2))
    assert (first.facts["fresh"], again.facts["fresh"]) == (True, False)
    assert first.brief is not None and again.brief is not None and first.brief.equals(again.brief)
    shown = first.brief.to_pylist()[0]
    assert shown["maps"] > 0 and shown["examples"] > 0 and shown["memory_mib"] > 0 and shown["skipped"] == 0
    assert "memory_mib" in again._repr_html_()


def test_the_parts_of_a_neuron_render_by_themselves(stored_atlas: Path) -> None:
    profile = atlas.Atlas.open(stored_atlas).neuron("1/3")
    for part in (profile.tokens, profile.concepts, profile.exemplars):
        assert len(part) and part._repr_html_().startswith("<table>")
    assert profile.concepts.to_pylist() == profile.to_pylist()
