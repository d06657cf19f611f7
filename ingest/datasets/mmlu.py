"""mmlu: multiple-choice questions of 57 subjects, after worked examples; text only.

    PATH/test/SUBJECT_test.csv, dev/SUBJECT_dev.csv (or below PATH/data/): question,A,B,C,D,answer without a header
    PATH/all/test-*.parquet, dev-*.parquet (or SUBJECT/..., data/..., PATH itself): question, subject, choices, answer

The subjects are the concepts, and the letter is the answer. Hendrycks et al. 2021, Measuring Massive Multitask Language
Understanding.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from atlas.errors import UsageError
from ingest.data.examples import TEXT, Concept, Example, Mention
from ingest.datasets._files import check_names, dataset_folder, read_text, split_of, stripped_text
from ingest.datasets._tasks import TaskDataset

NAME, TASK = "mmlu", "multiple_choice"
PARTS = {"test": "test", "val": "validation"}
LETTERS = "ABCD"
LAYOUT = "test/SUBJECT_test.csv and dev/SUBJECT_dev.csv, or all/test-*.parquet and all/dev-*.parquet"


@dataclass(frozen=True, slots=True)
class Question:
    """A question with four choices. answer: the letter of the right one."""

    text: str
    choices: tuple[str, ...]
    answer: str

    def as_prompt(self) -> str:
        """The question and its lettered choices, in lines, up to "Answer:"."""
        lines = [self.text, *(f"{letter}. {choice}" for letter, choice in zip(LETTERS, self.choices, strict=True))]
        return "\n".join([*lines, "Answer:"])


Subjects = Mapping[str, Sequence[Question]]


def build(path: str | None = None, *, part: str = "test", shots: int = 5, max_characters: int = 8000) -> TaskDataset:
    """Read an MMLU folder, of CSV files as first published or of Parquet files as on the HuggingFace hub.

    part: test | val. shots: how many answered questions of the subject's dev set come before each. max_characters: of a
    prompt; while it is longer its last shot is left out (the authors' limit is 2048 tokens of GPT-2, about as much).
    About one question in five is held out; the same question in two subjects is in one split.

    Raises:
        UsageError: no such folder, files or part; a file that is truncated or not MMLU's; a subject with too few shots.
    """
    check_names("part", [part], PARTS)
    if shots < 0 or max_characters < 1:
        raise UsageError("shots must be at least 0 and max_characters at least 1")
    root = dataset_folder(path, NAME)
    questions_by_subject = _read(root, part)
    dev = _read(root, "dev") if shots else {}
    for subject in questions_by_subject:
        if len(dev.get(subject, ())) < shots:
            raise UsageError(
                f"{root}: dev has {len(dev.get(subject, ()))} questions of {subject} for {shots} shots; "
                "use [[options=shots=0]], or a complete dev set"
            )

    def read() -> Iterator[Example]:
        for subject, questions in questions_by_subject.items():
            for question in questions:
                prompt = _prompt(subject, dev.get(subject, ())[:shots], question, max_characters)
                split = split_of(" ".join(question.text.lower().split()))
                yield Example(
                    TEXT, TASK, split, prompt, question.answer, (Mention(subject, question.answer),), fact=prompt
                )

    forms = {subject: (subject.lower(), subject.lower().replace("_", " ")) for subject in questions_by_subject}
    concepts = [Concept(subject, tuple(dict.fromkeys(forms[subject]))) for subject in questions_by_subject]
    metrics = {TASK: ("multiple_choice",)}
    return TaskDataset(NAME, root, licence="MIT", concepts=concepts, metrics=metrics, examples=read())


def _prompt(subject: str, shots: Sequence[Question], question: Question, limit: int) -> str:
    """The authors' form: a heading, the shots with their answers, the question."""
    heading = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}."
    parts = [heading, *(f"{shot.as_prompt()} {shot.answer}" for shot in shots), question.as_prompt()]
    while len("\n\n".join(parts)) > limit and len(parts) > 2:
        del parts[-2]
    return "\n\n".join(parts)


def _read(root: Path, part: str) -> Subjects:
    """The questions of a part by subject, in the order of the files."""
    for base in (root, root / "data"):
        if files := sorted((base / part).glob(f"*_{part}.csv")):
            return {file.name.removesuffix(f"_{part}.csv"): list(_csv(file)) for file in files}
    for place in ("all/", "", "data/", "*/"):
        if files := sorted(root.glob(f"{place}{PARTS.get(part, part)}-*.parquet")):
            by_subject: dict[str, list[Question]] = {}
            for subject, question in (pair for file in files for pair in _parquet(file)):
                by_subject.setdefault(subject, []).append(question)
            return by_subject
    raise UsageError(f"{root} has no {part} questions; expected: {LAYOUT}")


def _csv(file: Path) -> Iterator[Question]:
    number = 0
    try:
        for number, row in enumerate(csv.reader(io.StringIO(read_text(file), newline="")), 1):
            yield _question(row[0] if row else None, row[1:-1], row[-1] if row else None, f"{file}: row {number}")
    except csv.Error as error:
        raise UsageError(f"{file} cannot be read as a table after row {number}: {error}; download it again") from error
    if not number:
        raise UsageError(f"{file} has no rows; there is nothing to ingest")


def _parquet(file: Path) -> Iterator[tuple[str, Question]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ("question", "subject", "choices", "answer")
    try:
        table = pq.ParquetFile(file).read()
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{file} is not Parquet, or truncated: {error}; download it again") from error
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise UsageError(f"{file} has no column {missing[0]}; it has {', '.join(table.column_names)}")
    for number, row in enumerate(table.select(list(columns)).to_pylist()):
        where = f"{file}: row {number}"
        answer = row["answer"]
        letter = LETTERS[answer] if isinstance(answer, int) and 0 <= answer < len(LETTERS) else answer
        yield (
            stripped_text(row["subject"], f"{where}, the subject"),
            _question(row["question"], row["choices"], letter, where),
        )


def _question(text: object, choices: object, answer: object, where: str) -> Question:
    if not isinstance(choices, list) or len(choices) != len(LETTERS) or not all(isinstance(c, str) for c in choices):
        raise UsageError(f"{where} is not a question, four choices and an answer")
    letter = str(answer).strip()
    if len(letter) != 1 or letter not in LETTERS:
        raise UsageError(f"{where} has the answer {answer!r}, which is not A, B, C or D")
    return Question(stripped_text(text, f"{where}, the question"), tuple(choice.strip() for choice in choices), letter)
