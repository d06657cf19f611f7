"""How each thing of the small world sounds: short synthesised recordings, each a little different from the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

RATE = 16_000  # samples a second

Random = np.random.Generator
Wave = NDArray[np.float64]
Curve = Sequence[tuple[float, float]]  # (fraction of the length, value), joined by straight lines


def _curve(points: Curve, n: int) -> Wave:
    places, values = zip(*points, strict=True)
    curve: Wave = np.interp(np.linspace(0, 1, n), places, values)
    return curve


def _tone(pitch: Wave, strengths: Sequence[float] = (1.0,)) -> Wave:
    """Harmonics of a pitch in Hz that may vary; those too high for the sampling rate are left out."""
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    wave = np.zeros(len(pitch))
    for number, strength in enumerate(strengths, 1):
        if number * pitch.max() < RATE / 2:
            wave += strength * np.sin(number * phase)
    return wave


def _saw(pitch: Wave, most: int = 24) -> Wave:
    return _tone(pitch, [1 / number for number in range(1, most + 1)])


def _shape(wave: Wave, peaks: Curve, floor: float = 0.0) -> Wave:
    """Keep the frequencies around the peaks, (middle, width) in Hz each, and `floor` of all others."""
    frequencies = np.fft.rfftfreq(len(wave), 1 / RATE)
    bells = (np.exp(-0.5 * ((frequencies - middle) / width) ** 2) for middle, width in peaks)
    gain = sum(bells, np.zeros(len(frequencies)))
    return np.fft.irfft(np.fft.rfft(wave) * (floor + gain), len(wave))


def _band(wave: Wave, low: float, high: float) -> Wave:
    """Keep the frequencies between two limits in Hz, with soft edges."""
    frequencies = np.fft.rfftfreq(len(wave), 1 / RATE)
    gain = 1 / (1 + (low / np.maximum(frequencies, 1.0)) ** 8) / (1 + (frequencies / high) ** 8)
    return np.fft.irfft(np.fft.rfft(wave) * gain, len(wave))


def _glide(first: Wave, last: Wave) -> Wave:
    part = np.linspace(0, 1, len(first))
    return (1 - part) * first + part * last


def _hit(n: int, attack: float, decay: float) -> Wave:
    """An envelope that rises within `attack` seconds and then falls to 1/e every `decay` seconds."""
    t = np.arange(n) / RATE
    return np.minimum(1.0, t / attack) * np.exp(-t / decay)


def _swing(n: int, rate: float, depth: float, phase: float = 0.0) -> Wave:
    """An envelope that swings `rate` times a second between 1 and 1 - depth."""
    return 1 - depth * (0.5 + 0.5 * np.cos(2 * np.pi * rate * np.arange(n) / RATE + phase))


def _unit(wave: Wave) -> Wave:
    return wave / max(1e-9, float(np.abs(wave).max()))


def _train(n: int, every: Callable[[], float], one: Callable[[], Wave]) -> Wave:
    """One sound after another, `every` seconds; it may ring into the next."""
    wave, start = np.zeros(n), 0
    while start < n - RATE // 100:
        part = one()[: n - start]
        wave[start : start + len(part)] += part
        start += max(1, int(every() * RATE))
    return wave


def _dog(rng: Random, n: int) -> Wave:
    pitch = rng.uniform(240, 330)

    def bark() -> Wave:
        m = int(rng.uniform(0.11, 0.14) * RATE)
        source = 0.6 * rng.standard_normal(m) + 2 * _saw(_curve([(0, pitch), (0.2, 1.2 * pitch), (1, 0.6 * pitch)], m))
        fallen = _glide(_shape(source, [(1300, 260), (2500, 400)]), _shape(source, [(600, 160), (1500, 300)]))
        return _hit(m, 0.006, 0.05) * fallen

    return _train(n, lambda: rng.uniform(0.17, 0.22), bark)


def _cat(rng: Random, n: int) -> Wave:
    pitch = rng.uniform(480, 620)
    meow = _saw(_curve([(0, pitch), (0.35, 1.5 * pitch), (1, 0.8 * pitch)], n), 8)
    voice = _glide(_shape(meow, [(900, 300), (2600, 500)]), _shape(meow, [(1500, 400), (2200, 500)]))
    return voice * _curve([(0, 0), (0.15, 1), (0.6, 0.8), (1, 0)], n)


def _horse(rng: Random, n: int) -> Wave:
    beat, high = rng.uniform(0.085, 0.105), rng.uniform(1000, 1250)
    step = [0]

    def hoof() -> Wave:
        m = int(0.06 * RATE)
        step[0] += 1
        height = high * (1.0 if step[0] % 2 else 0.72)
        return _hit(m, 0.002, 0.012) * (_tone(np.full(m, height)) + 0.5 * _band(rng.standard_normal(m), 500, 2500))

    # A gallop: three hooves, then a rest.
    return _train(n, lambda: beat * (1.9 if step[0] % 3 == 0 else 1.0), hoof)


def _bird(rng: Random, n: int) -> Wave:
    height = rng.uniform(3000, 3800)

    def chirp() -> Wave:
        m = int(rng.uniform(0.06, 0.085) * RATE)
        return np.hanning(m) * _tone(_curve([(0, height), (0.5, 1.45 * height), (1, 1.1 * height)], m))

    return _train(n, lambda: rng.uniform(0.1, 0.13), chirp)


def _fish(rng: Random, n: int) -> Wave:
    def bubble() -> Wave:
        m = int(rng.uniform(0.04, 0.07) * RATE)
        low = rng.uniform(330, 620)
        return rng.uniform(0.6, 1.0) * np.hanning(m) * _tone(_curve([(0, low), (1, 2.1 * low)], m))

    return _train(n, lambda: rng.uniform(0.045, 0.1), bubble)


def _butterfly(rng: Random, n: int) -> Wave:
    beats = _swing(n, rng.uniform(17, 22), 1.0, rng.uniform(0, 6)) ** 2
    return _band(rng.standard_normal(n), 4600, 7400) * beats * _curve([(0, 0.2), (0.2, 1), (0.8, 1), (1, 0.2)], n)


def _cow(rng: Random, n: int) -> Wave:
    pitch = rng.uniform(120, 155)
    moo = _saw(_curve([(0, 0.8 * pitch), (0.3, pitch), (0.8, pitch), (1, 0.75 * pitch)], n))
    return _shape(moo, [(260, 90), (680, 130)], 0.02) * _curve([(0, 0), (0.2, 1), (0.75, 0.9), (1, 0)], n)


def _sheep(rng: Random, n: int) -> Wave:
    pitch = rng.uniform(300, 390)
    rate = rng.uniform(10, 13)
    wobble = 1 + 0.05 * np.sin(2 * np.pi * rate * np.arange(n) / RATE)
    bleat = _shape(_saw(pitch * wobble), [(750, 200), (1900, 300), (3000, 350)], 0.03)
    return bleat * _swing(n, rate, 0.75) * _curve([(0, 0), (0.1, 1), (0.7, 0.9), (1, 0)], n)


def _frog(rng: Random, n: int) -> Wave:
    height, gap = rng.uniform(850, 1050), 1 / rng.uniform(55, 70)

    def click() -> Wave:
        return _hit(320, 0.001, 0.004) * _tone(np.full(320, height), (1.0, 0.5))

    def croak() -> Wave:
        m = int(rng.uniform(0.13, 0.16) * RATE)
        return _train(m, lambda: gap, click) * _curve([(0, 0.3), (0.7, 1), (1, 0)], m)

    return _train(n, lambda: rng.uniform(0.19, 0.23), croak)


def _bee(rng: Random, n: int) -> Wave:
    t = np.arange(n) / RATE
    waver = 1 + 0.06 * np.sin(2 * np.pi * rng.uniform(2, 5) * t + rng.uniform(0, 6))
    buzz = _band(_saw(rng.uniform(205, 250) * waver, 30), 150, 4200) + 0.05 * _band(rng.standard_normal(n), 2000, 5000)
    return buzz * _curve([(0, 0.1), (0.25, 1), (0.7, 0.9), (1, 0.1)], n)


def _lion(rng: Random, n: int) -> Wave:
    source = _saw(_curve([(0, 75), (0.3, 100), (1, 60)], n) * rng.uniform(0.9, 1.1)) + 1.2 * rng.standard_normal(n)
    roar = _glide(_shape(source, [(480, 150), (1100, 250)]), _shape(source, [(260, 110), (800, 200)]))
    return roar * _swing(n, rng.uniform(26, 34), 0.7) * _curve([(0, 0), (0.25, 1), (0.6, 0.8), (1, 0)], n)


def _car(rng: Random, n: int) -> Wave:
    low = rng.uniform(390, 440)
    horn = [1, 0.7, 0.8, 0.5, 0.6, 0.3, 0.3]
    pair = _tone(np.full(n, low), horn) + _tone(np.full(n, 1.26 * low), horn)
    off = int(rng.uniform(0.35, 0.5) * n)
    edge = RATE // 100
    pair[off : off + n // 8] = 0  # two honks
    loud = np.ones(n)
    for start, end in ((0, off), (off + n // 8, n)):
        loud[start : start + edge] *= np.linspace(0, 1, len(loud[start : start + edge]))
        loud[max(0, end - edge) : end] *= np.linspace(1, 0, len(loud[max(0, end - edge) : end]))
    return pair * loud


def _bus(rng: Random, n: int) -> Wave:
    knock, height = 1 / rng.uniform(24, 30), rng.uniform(125, 160)

    def stroke() -> Wave:
        return _hit(600, 0.002, 0.012) * _tone(np.full(600, height), (1.0, 0.6, 0.4))

    rumble = 0.5 * _unit(_band(rng.standard_normal(n), 50, 220))
    return (_unit(_train(n, lambda: knock, stroke)) + rumble) * _curve([(0, 0.2), (0.1, 1), (0.9, 1), (1, 0.2)], n)


def _sailboat(rng: Random, n: int) -> Wave:
    waves = _unit(_band(rng.standard_normal(n), 350, 1500)) * _swing(n, rng.uniform(2.2, 3.0), 0.85, rng.uniform(0, 6))
    rates = iter(np.linspace(0.03, 0.012, 400) * rng.uniform(0.9, 1.1))
    height = rng.uniform(1900, 2300)

    def crack() -> Wave:
        return _hit(260, 0.001, 0.004) * _tone(np.full(260, height))

    return 0.8 * waves + 0.6 * _train(n, lambda: float(next(rates, 0.012)), crack)


def _rocket(rng: Random, n: int) -> Wave:
    noise = rng.standard_normal(n)
    low, middle, high = _band(noise, 60, 400), _band(noise, 200, 1800), _band(noise, 500, 6500)
    roar = _glide(_glide(_unit(low), _unit(middle)), _glide(_unit(middle), _unit(high)))
    return roar * _curve([(0, 0.15), (rng.uniform(0.7, 0.85), 1), (1, 0.8)], n)


def _locomotive(rng: Random, n: int) -> Wave:
    pitch, gap = rng.uniform(640, 740), rng.uniform(0.11, 0.15)
    chord = sum((_tone(np.full(n, pitch * part), (1.0, 0.3)) for part in (1.0, 1.26, 1.5)), np.zeros(n))

    def chuff() -> Wave:
        m = int(0.09 * RATE)
        return _hit(m, 0.008, 0.03) * _band(rng.standard_normal(m), 900, 4000)

    whistle = _unit(chord) * _curve([(0, 0), (0.1, 1), (0.85, 1), (1, 0)], n)
    return 0.6 * whistle + 0.7 * _unit(_train(n, lambda: gap, chuff))


def _plane(rng: Random, n: int) -> Wave:
    pitch = rng.uniform(88, 108)
    strengths = [0.4, 1.0, 0.5, 0.9, 0.4, 0.7, 0.3, 0.4]
    beating = _tone(np.full(n, pitch), strengths) + _tone(np.full(n, pitch * 1.035), strengths)
    drone = _unit(beating) + 0.2 * _unit(_band(rng.standard_normal(n), 700, 2200))
    return drone * _curve([(0, 0.2), (0.2, 1), (0.8, 1), (1, 0.2)], n)


def _bicycle(rng: Random, n: int) -> Wave:
    height = rng.uniform(2100, 2500)

    def ring() -> Wave:
        m = int(0.25 * RATE)
        parts = ((1.0, 1.0, 0.09), (1.62, 0.6, 0.06), (2.41, 0.4, 0.04))
        return sum((s * _hit(m, 0.001, d) * _tone(np.full(m, height * p)) for p, s, d in parts), np.zeros(m))

    return _train(n, lambda: rng.uniform(0.075, 0.095), ring)


VOICES: dict[str, Callable[[Random, int], Wave]] = {
    "dog": _dog,
    "cat": _cat,
    "horse": _horse,
    "bird": _bird,
    "fish": _fish,
    "butterfly": _butterfly,
    "cow": _cow,
    "sheep": _sheep,
    "frog": _frog,
    "bee": _bee,
    "lion": _lion,
    "car": _car,
    "bus": _bus,
    "sailboat": _sailboat,
    "rocket": _rocket,
    "train": _locomotive,
    "plane": _plane,
    "bicycle": _bicycle,
}


def voice(name: str, seed: int, n: int) -> Wave:
    """(n,) float64 with a peak of 1: the thing's sound, varied by `seed`, faded at both ends."""
    wave = _unit(VOICES[name](np.random.default_rng(seed), n))
    edge = min(n // 4, RATE // 200)
    wave[:edge] *= np.linspace(0, 1, edge)
    wave[n - edge :] *= np.linspace(1, 0, edge)
    return wave


def noise(name: str, seed: int, n: int) -> Wave:
    """(n,) float64 with a root mean square of 1: the background noise."""
    rng = np.random.default_rng(seed)
    white = rng.standard_normal(n)
    if name == "wind":
        wave = _band(white, 40, 500) * _swing(n, rng.uniform(1.0, 2.0), 0.7, rng.uniform(0, 6))
    elif name == "rain":
        drops = white * (rng.random(n) < 0.004)
        wave = 6 * _band(drops, 1200, 5000) + 0.25 * _band(white, 1500, 5500)
    elif name == "hum":
        wave = _tone(np.full(n, rng.uniform(48, 52)), (0.3, 1.0, 0.2, 0.7, 0.1, 0.4)) + 0.05 * white
    else:
        wave = _band(white, 2500, 7800)
    level: float = np.sqrt(np.mean(wave**2))
    return wave / level
