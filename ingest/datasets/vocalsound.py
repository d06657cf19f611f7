"""vocalsound: short recordings of people who laugh, sigh, cough, clear their throat, sneeze or sniff.

    PATH/audio_16k/SPEAKER_N_LABEL.wav (or audio_44k/, or PATH itself), for example f0003_0_throatclearing.wav
    PATH/datafiles/te.json (tr, val), or meta/te_meta.csv: which of them are the test (training, validation) part

Source "audio"; the label is in the file's name. The six sounds are the concepts. Gong et al. 2022, VocalSound: A
Dataset for Improving Human Vocal Sounds Recognition.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from atlas.errors import UsageError
from ingest.data.examples import AUDIO, Concept, Example, Mention
from ingest.datasets._files import check_names, dataset_folder, one_line, read_json_rows, read_text, split_of
from ingest.datasets._tasks import TaskDataset

NAME, TASK = "vocalsound", "sound"
PARTS = {"all": "", "train": "tr", "val": "val", "test": "te"}
FOLDERS = ("audio_16k", "audio_44k", ".")
LAYOUT = "audio_16k/ with recordings such as f0003_0_throatclearing.wav"
FILE = re.compile(r"(?P<speaker>[A-Za-z]*\d+)_(?P<take>\d+)_(?P<label>[a-z]+)\.wav")

SOUNDS = {
    "laughter": Concept("laughter", ("laughter", "laugh", "laughs", "laughing")),
    "sigh": Concept("sigh", ("sigh", "sighs", "sighing")),
    "cough": Concept("cough", ("cough", "coughs", "coughing")),
    "throatclearing": Concept("throat clearing", ("throat clearing", "clearing the throat", "clears the throat")),
    "sneeze": Concept("sneeze", ("sneeze", "sneezes", "sneezing")),
    "sniff": Concept("sniff", ("sniff", "sniffs", "sniffing")),
}
"""Label in a file's name -> concept; the concept's name is the answer."""

PROMPT = (
    "Which sound does the person in this recording make: laughter, sigh, cough, throat clearing, sneeze or sniff? "
    "Answer with one of these six."
)


def build(path: str | None = None, *, part: str = "all") -> TaskDataset:
    """Read a VocalSound folder.

    part: all | train | val | test; all but "all" need datafiles/ or meta/. About one speaker in five is held out.

    Raises:
        UsageError: no such folder or part; no recordings; a name without a label; a listing that is truncated or names
            no recording that exists.
    """
    check_names("part", [part], PARTS)
    root = dataset_folder(path, NAME)
    recordings = _recordings(root)
    if part != "all":
        recordings = _chosen(root, recordings, PARTS[part])
    metrics = {TASK: ("label",)}
    return TaskDataset(
        NAME, root, licence="CC BY-SA 4.0", concepts=SOUNDS.values(), metrics=metrics, examples=_examples(recordings)
    )


def _recordings(root: Path) -> dict[str, str]:
    """File name -> pointer, of the first folder that has any."""
    for folder in FOLDERS:
        entries = (root / folder).iterdir() if (root / folder).is_dir() else ()
        names = sorted(e.name for e in entries if e.suffix == ".wav" and not e.name.startswith("."))
        for name in names:
            match = FILE.fullmatch(name)
            if match is None or match["label"] not in SOUNDS:
                known = ", ".join(SOUNDS)
                raise UsageError(f"{root / folder / name} is not named SPEAKER_N_LABEL.wav with a label of {known}")
        if names:
            return {name: name if folder == "." else f"{folder}/{name}" for name in names}
    raise UsageError(f"{root} has no recordings; expected: {LAYOUT}")


def _chosen(root: Path, recordings: dict[str, str], short: str) -> dict[str, str]:
    """The recordings of one part: those listed in datafiles/, else those of the speakers listed in meta/."""
    listing, speakers = root / "datafiles" / f"{short}.json", root / "meta" / f"{short}_meta.csv"
    if listing.is_file():
        names = [
            one_line(row.get("wav"), f"{listing}: the wav of row {n}")
            for n, row in enumerate(read_json_rows(listing, "data"))
        ]
        listed_names = {name.replace("\\", "/").rpartition("/")[2] for name in names}  # its authors' folders come first
        chosen = {name: media for name, media in recordings.items() if name in listed_names}
    elif speakers.is_file():
        try:
            listed_speakers = {row[0].strip() for row in csv.reader(read_text(speakers).splitlines()) if row}
        except csv.Error as error:
            raise UsageError(f"{speakers} is not a table: {error}; download it again") from error
        chosen = {name: media for name, media in recordings.items() if name.partition("_")[0] in listed_speakers}
    else:
        raise UsageError(f"{root} does not say which part a recording is of: no {listing.name} or {speakers.name}")
    if not chosen:
        raise UsageError(f"{listing if listing.is_file() else speakers} lists none of the recordings below {root}")
    return chosen


def _examples(recordings: dict[str, str]) -> Iterator[Example]:
    for name, media in recordings.items():
        match = FILE.fullmatch(name)
        assert match is not None
        sound = SOUNDS[match["label"]].name
        yield Example(AUDIO, TASK, split_of(match["speaker"]), PROMPT, sound, (Mention(sound, sound),), (media,))
