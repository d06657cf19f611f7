"""librispeech: read English speech with its transcripts.

    PATH/test-clean/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt, and beside it SPEAKER-CHAPTER-NNNN.flac (or .wav)
    PATH/LibriSpeech/test-clean/... as the archive unpacks

Source "audio"; the answer is the transcript in lower case. One concept, librispeech, whose words are the answer's.
Panayotov et al. 2015, Librispeech: an ASR Corpus Based on Public Domain Audio Books.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from atlas.errors import UsageError
from ingest.data.examples import AUDIO, Example
from ingest.datasets._files import dataset_folder, one_line, read_text, require_inside, resolve_media, split_of
from ingest.datasets._tasks import TaskDataset, answer_mention, single_concept

NAME, TASK = "librispeech", "transcribe"
ENDINGS = (".flac", ".wav")
PROMPT = "Write down the speech in this recording, word for word, and nothing else."
LAYOUT = "test-clean/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt with the recordings beside it"


def build(path: str | None = None, *, part: str = "test-clean") -> TaskDataset:
    """Read a LibriSpeech folder.

    part: the folder of recordings below it: test-clean, test-other, dev-clean, ...
    About one speaker in five is held out.

    Raises:
        UsageError: no such folder or part; a transcript that is truncated or not LibriSpeech's; no recording exists.
        BadMedia: a transcript or a part that leads out of the folder.
    """
    root = dataset_folder(path, NAME)
    require_inside(part)
    places = [place for place in (part, f"LibriSpeech/{part}") if (root / place).is_dir()]
    if not places:
        raise UsageError(f"{root} has no folder {part}; expected: {LAYOUT}")
    files = sorted((root / places[0]).glob("*/*/*.trans.txt"))
    if not files:
        raise UsageError(f"{root / places[0]} has no transcripts; expected: {LAYOUT}")
    utterances = [example for file in files for example in _utterances(root, file)]
    if not any((root / example.media[0]).is_file() for example in utterances):
        raise UsageError(f"none of the recordings is below {root / places[0]}; expected: {LAYOUT}")
    metrics = {TASK: ("wer", "wrr")}
    return TaskDataset(
        NAME, root, licence="CC BY 4.0", concepts=[single_concept(NAME)], metrics=metrics, examples=utterances
    )


def _utterances(root: Path, file: Path) -> Iterator[Example]:
    """The lines of one transcript: an utterance's id and its words."""
    folder = file.relative_to(root).parent
    speaker, chapter = folder.parts[-2:]
    names: set[str] = set()
    for number, text in enumerate(read_text(resolve_media(root, file.relative_to(root).as_posix())).splitlines(), 1):
        where = f"{file}: line {number}"
        name, _, transcript = text.strip().partition(" ")
        chapter_id, _, utterance_number = name.rpartition("-")
        if chapter_id != f"{speaker}-{chapter}" or not utterance_number.isdigit():
            raise UsageError(f"{where} does not begin with an id such as {speaker}-{chapter}-0000: {text[:80]}")
        if name in names:
            raise UsageError(f"{where} is a second transcript of {name}")
        names.add(name)
        answer = one_line(transcript, f"{where}, the words").lower()
        ending = next((e for e in ENDINGS if (file.parent / f"{name}{e}").is_file()), ".flac")
        media = (f"{folder.as_posix()}/{name}{ending}",)
        yield Example(AUDIO, TASK, split_of(speaker), PROMPT, answer, answer_mention(NAME, answer), media)
    recordings = [f for f in file.parent.iterdir() if f.suffix in ENDINGS and not f.name.startswith(".")]
    missing = sorted(f.name for f in recordings if f.stem not in names)
    if missing:
        raise UsageError(f"{file} is truncated: it has no line for {missing[0]}; download it again")
