"""The world's recordings: the same everywhere, exact to the sample, audible, and no two things alike."""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from atlas.errors import UsageError
from ingest.data.examples import AUDIO, FIND, HELD_OUT, IMAGE, BadMedia, Example
from ingest.datasets import _sounds, scenes
from ingest.datasets._sound_words import NOISES, SOUND_TASKS, SOUNDING, sound_questions
from ingest.datasets._voices import VOICES
from ingest.datasets._world import vocabulary

WORLD = scenes.build()
ADDRESSES = [f"sound/{split}/{number}" for split, most in ((FIND, 72), (HELD_OUT, 36)) for number in range(most)]
FRAME = 256  # samples


def ask(split: str, tasks: list[str], concepts: list[str], number: int = 6, seed: int = 0) -> list[Example]:
    return WORLD.examples(source=AUDIO, split=split, concepts=concepts, tasks=tasks, per_concept=number, seed=seed)


def test_every_animal_and_vehicle_sounds() -> None:
    assert len(SOUNDING) == 18
    assert set(VOICES) == {thing.name for thing in SOUNDING} == set(WORLD.sounding)


def test_two_worlds_of_one_seed_are_equal_and_of_two_seeds_are_not() -> None:
    again, other = scenes.build(seed=0), scenes.build(seed=1)
    for address in ADDRESSES[::9]:
        assert again.audio(address)[0].tobytes() == WORLD.audio(address)[0].tobytes()
        assert other.audio(address)[0].tobytes() != WORLD.audio(address)[0].tobytes()
        assert again.audio_caption(address) == WORLD.audio_caption(address)
        assert again.digest(address) == WORLD.digest(address)


def test_recordings_are_a_second_within_the_range_and_all_different() -> None:
    found = [WORLD.audio(address) for address in ADDRESSES]
    assert {(samples.shape, samples.dtype.name, rate) for samples, rate in found} == {((16_000,), "float32", 16_000)}
    assert max(float(np.abs(samples).max()) for samples, _ in found) <= 1
    assert len({samples.tobytes() for samples, _ in found}) == len(found)
    assert Counter(len(WORLD.heard(address)) for address in ADDRESSES[:72]) == {1: 36, 2: 36}
    assert {_sounds.compose(0, FIND, number).background for number in range(40)} == set(NOISES)


@pytest.mark.parametrize("address", ADDRESSES[::3])
def test_a_mask_holds_all_that_the_counterfactual_changes(address: str) -> None:
    samples, _ = WORLD.audio(address)
    for name in WORLD.heard(address):
        changed = samples - WORLD.audio_counterfactual(address, name)[0]
        mask = WORLD.audio_mask(address, name)
        assert mask.shape == samples.shape and mask.dtype == bool
        assert not changed[~mask].any()
        assert (changed[mask] != 0).mean() >= 0.9
        edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
        assert changed[edges[::2]].all() and changed[edges[1::2] - 1].all()
    absent = next(name for name in WORLD.sounding if name not in WORLD.heard(address))
    assert not WORLD.audio_mask(address, absent).any()
    assert np.array_equal(WORLD.audio_counterfactual(address, absent)[0], samples)


def test_every_thing_is_louder_than_the_noise_and_heard_by_itself() -> None:
    for number in range(72):
        recording = _sounds.compose(0, FIND, number)
        silent = _sounds.Recording((), recording.manner, recording.background, recording.level, recording.grain)
        noise = float(np.sqrt(np.mean(silent.render() ** 2)))
        assert 0.003 < noise < 0.02
        masks = {thing.name: recording.mask(thing.name) for thing in recording.things}
        for thing in recording.things:
            heard = thing.layer()[masks[thing.name]]
            assert np.sqrt(np.mean(heard**2)) > 1.5 * noise, (thing.name, number)
            others = [mask for name, mask in masks.items() if name != thing.name]
            assert (masks[thing.name] & ~np.any([np.zeros(16_000, bool), *others], 0)).sum() > 800


def spectrum(recording: _sounds.Recording) -> np.ndarray:
    """(80,) mean and spread of the log spectrum, in forty bands, while the only thing sounds; of any loudness."""
    mask = recording.mask(recording.things[0].name)
    frames = recording.render()[: 62 * FRAME].reshape(62, FRAME)[mask[: 62 * FRAME].reshape(62, FRAME).mean(1) > 0.5]
    power = np.abs(np.fft.rfft(frames * np.hanning(FRAME))) ** 2
    edges = np.unique(np.geomspace(2, FRAME // 2 + 1, 41).astype(int))
    bands = np.log10(np.stack([power[:, a:b].mean(1) for a, b in pairwise(edges)], 1) + 1e-9)
    bands = np.maximum(bands, bands.max() - 4)
    bands -= bands.mean()
    return np.concatenate([bands.mean(0), bands.std(0)])


def singles(split: str, number: int) -> list[_sounds.Recording]:
    some = (_sounds.compose(0, split, i) for i in range(number) if _sounds.leading(i)[1] == "alone")
    return list(some)


def test_things_are_told_apart_by_the_nearest_mean_spectrum() -> None:
    known, asked = singles(FIND, 360), singles(HELD_OUT, 288)
    spectra = np.stack([spectrum(recording) for recording in known])
    names = np.array([recording.things[0].name for recording in known])
    means = np.stack([spectra[names == name].mean(0) for name in WORLD.sounding])
    told = [WORLD.sounding[int(((spectrum(one) - means) ** 2).sum(1).argmin())] for one in asked]
    right = [one.things[0].name == name for one, name in zip(asked, told, strict=True)]
    assert np.mean(right) > 0.9


@pytest.mark.parametrize(
    "address", ["", "sound", "find/3", "sound/find/", "sound/find/01", "sound/train/3", "sound/find/12345678"]
)
def test_an_address_of_no_recording_is_bad_media(address: str) -> None:
    with pytest.raises(BadMedia, match="sound/find/123"):
        WORLD.audio(address)
    with pytest.raises(BadMedia):
        WORLD.audio_mask(address, "dog")


def test_a_recording_is_no_picture() -> None:
    for call in (WORLD.image, WORLD.caption, lambda media: WORLD.mask(media, "dog")):
        with pytest.raises(BadMedia, match="is a recording, not a picture"):
            call("sound/find/3")
    with pytest.raises(UsageError):
        WORLD.audio_counterfactual("sound/find/3", "dgo")


def test_examples_keep_the_contract() -> None:
    for split in (FIND, HELD_OUT):
        examples = ask(split, list(SOUND_TASKS), list(WORLD.sounding))
        assert len({e.id for e in examples}) == len(examples) == 6 * 6 * 18
        for example in examples:
            assert example.answer and example.media[0].startswith(f"sound/{split}/")
            assert {m.concept for m in example.mentions} == set(WORLD.heard(example.media[0]))
            if example.task != "caption":
                assert len(example.mentions) == 1
            assert not {"picture", "see", "show"} & set(example.prompt.rstrip("?.").split())
    assert ask(FIND, ["name"], ["castle"]) == []
    assert {e.answer for e in ask(FIND, ["does"], ["dog"])} == {"barks"}


def test_held_out_shares_no_recording_and_no_wording() -> None:
    for task in SOUND_TASKS:
        find, held_out = (ask(split, [task], ["dog"], 60) for split in (FIND, HELD_OUT))
        assert not {e.prompt for e in find} & {e.prompt for e in held_out}
        assert not {e.media for e in find} & {e.media for e in held_out}
        assert len(sound_questions(task, FIND)) == 3 * len(sound_questions(task, HELD_OUT)) == 12


def test_nothing_that_was_there_before_sounds_has_changed() -> None:
    """Runs of older versions keep their ids only while these stay as they are."""
    assert WORLD.revision == hashlib.sha256(b"scenes 1 seed 0").hexdigest()
    assert AUDIO in WORLD.all_tasks
    assert not {"recording", "hear", "then", *NOISES} & set(vocabulary())
    pictures = WORLD.examples(
        source=IMAGE, split=FIND, concepts=["dog"], tasks=["caption", "name"], per_concept=9, seed=0
    )
    assert not any(media.startswith("sound") for example in pictures for media in example.media)
