"""Compute an edit: of a word that a model says, or of a thing that it draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.errors import UsageError
from atlas.query.neuron_set import NeuronSet, require_neurons
from atlas.query.option import PAIRS, REPEATED, described, option, required
from ingest.requests.options import EXECUTION, JOB, DataOptions, LoadOptions, ModelOptions
from ingest.requests.progress import Progress, silent
from ingest.requests.request import Request

if TYPE_CHECKING:
    from atlas.edits.library import StoredEdit
    from ingest.solve.solve import PromptDataset

KEEP = 64
"""Answers of other concepts that must stay, by default."""


@described
class Solve(Request["StoredEdit"], LoadOptions, DataOptions, ModelOptions):
    """Compute an edit: one word becomes another, or is never said, on a dataset's examples or on one question.

    The neurons are those that contribute most to what the model says, found on the spot, or those that are given. With
    `target="image"`, requests for one concept draw another; such an edit needs neurons, of a map or saved ones.

    neurons: those that may change. What the solver reports is in the edit's `report`.

    Raises:
        UsageError: nothing to swap, an unknown word, options that do not go together, neurons of another model.
    """

    name: str = required("A name for the edit, for example dog-to-cat.", argument=True, kw_only=False)
    word: str = required("The word that the model says.", "--from")
    to: str | None = option("The word it is to say there. [default: never say the first]", default=None)
    solver: str | None = option(
        "word_swap, minimal_norm, rank_one, fine_tune. [default: word_swap; of pictures minimal_norm]", default=None
    )
    param: Mapping[str, Any] | None = option("KEY=VALUE for the solver; repeatable.", default=None, several=PAIRS)
    to_concept: str | None = option("minimal_norm: the concept to move to. [default: [[to]]]", default=None)
    keep: int | None = option(f"Answers of other concepts that must stay. [default: {KEEP}]", default=None, least=0)
    target: str = option("text: what is said; image: what is drawn (minimal_norm, by concepts).", default="text")
    image: Sequence[str] | None = option(
        "With [[prompt]]: a picture, as a file or DATASET:POINTER.", "--image", "-i", default=None, several=REPEATED
    )
    prompt: str | None = option("Solve on this one question instead of a dataset.", "--prompt", "-p", default=None)
    concept: str | None = option("The concept's name (`atlas concepts` lists them).", "--concept", "-c", default=None)
    batch_size: int = option("Examples in one forward pass.", default=16, of=EXECUTION, least=1)
    seed: int = option("Which examples the solver sees.", default=0, of=JOB)
    note: str | None = option("Your own words about it.", default=None)
    neurons: NeuronSet | None = field(default=None, kw_only=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.neurons is not None:
            require_neurons(self.neurons)
        if self.target not in ("text", "image"):
            raise UsageError(f"an edit changes what is said or drawn: [[target]] text or image, not '{self.target}'")
        if self.target == "image":
            self._check_drawing()
        elif self.to_concept is not None and self.chosen_solver != "minimal_norm":
            raise UsageError(f"[[to_concept]] is for minimal_norm; {self.chosen_solver} goes by [[to]]")
        if self.image and self.prompt is None:
            raise UsageError(
                f"[[image]] needs the question about it: [[prompt=what is this?]] (its answer says '{self.word}')"
            )
        of_dataset = self.tasks or self.sources or self.dataset or (self.concept if self.neurons is None else None)
        if self.prompt is not None and of_dataset:
            raise UsageError(
                "[[prompt]] is one question; [[dataset]], [[tasks]], [[sources]] and [[concept]] are for many: choose"
            )

    def _check_drawing(self) -> None:
        """Edits of pictures are solved in one way, and from concepts."""
        if (to := self.to_concept or self.to) is None:
            raise UsageError("[[target=image]] makes one concept of another: give [[word=dog]] and [[to=cat]]")
        if to == self.word:
            raise UsageError(f"'{self.word}' would become itself; give another [[to]]")
        if self.chosen_solver != "minimal_norm":
            raise UsageError(
                f"{self.solver} changes what is said; with [[target=image]] leave out [[solver]], or say minimal_norm"
            )
        of_text = [name for name in ("prompt", "image", "param", "keep") if getattr(self, name) is not None]
        if of_text:
            names = " and ".join(f"[[{name}]]" for name in of_text)
            raise UsageError(f"{names}: of edits of what is said; with [[target=image]] leave it out")

    @property
    def chosen_solver(self) -> str:
        """The solver that was named, or the target's own."""
        return self.solver or ("minimal_norm" if self.target == "image" else "word_swap")

    def content(self) -> dict[str, Any]:
        concepts = () if self.concept is None else (self.concept,)
        return super().content() | {"concepts": concepts}

    def perform(self, path: Path, progress: Progress = silent) -> StoredEdit:
        return self._drawing(path) if self.target == "image" else self._of_words(path, progress)

    def _of_words(self, path: Path, progress: Progress) -> StoredEdit:
        from atlas.edits.library import StoredEdit
        from ingest.job import make_job
        from ingest.solve.solve import SolveSpec, solve
        from ingest.solve.swaps import Swap

        goal = self.to_concept or (self.to if self.chosen_solver == "minimal_norm" else None)
        keep = KEEP if self.keep is None else self.keep
        spec = SolveSpec(self.chosen_solver, Swap(self.word, self.to), dict(self.param or {}), goal, keep)
        edit, _ = solve(
            path,
            self.name,
            spec,
            make_job(self.content()),
            self.execution(),
            prompt_dataset=self.question(),
            neurons=self.neurons,
            note=self.note,
            progress=progress,
        )
        return StoredEdit(edit)

    def question(self) -> PromptDataset | None:
        """The one question that is asked, with its pictures by their whole paths."""
        from ingest.solve.solve import PromptDataset

        if self.prompt is None:
            return None
        pictures = [str(Path(name).resolve()) if Path(name).exists() else name for name in self.image or ()]
        return PromptDataset(self.prompt, pictures, self.word)

    def _drawing(self, path: Path) -> StoredEdit:
        from atlas.edits.library import StoredEdit
        from ingest.job import make_job
        from ingest.solve.drawing import solve_drawing

        if self.neurons is None:
            raise UsageError(
                "[[target=image]] needs neurons: those of a map, such as `atlas edit solve ... --method nam_image "
                "--top 20`, or saved ones"
            )
        job = make_job({"tasks": ["draw"], **self.content(), "concepts": ()})
        goal = str(self.to_concept or self.to)
        edit, _ = solve_drawing(path, self.name, self.word, goal, job, self.execution(), self.neurons, note=self.note)
        return StoredEdit(edit)
