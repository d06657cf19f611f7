"""What the eyes' own classifier teaches about classes that no free photograph shows: a plain name for each, and
features that look like it.

The classifier's weights of a class are a filter, not a pattern: what the class looks like is the filter times the
covariance of the features (Haufe et al. 2014, eq. 6). On the classes of which the crops have four or more, the cosine
of that direction with the true mean is 0.61, of the weights themselves 0.42.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

RIDGE = 0.05  # of the mean variance, added to the covariance

PLAIN_NAMES = {
    "airplane": "404",
    "apple": "948",
    "backpack": "414",
    "ball": "429-430 522 574 722 768 805 852 890",
    "banana": "954",
    "bear": "294-297",
    "bed": "520 564",
    "bench": "703",
    "bicycle": "444 671",
    "bird": "7-24 80-100 127-146",
    "boat": "472 484 510 554 576 625 628 780 814 871 914",
    "book": "921",
    "bottle": "440 720 737 898 907",
    "bowl": "659 809",
    "bus": "654 779 874",
    "car": "407 436 468 511 609 627 656 661 751 817",
    "cat": "281-285",
    "cell phone": "487",
    "chair": "423 559 765 857",
    "clock": "409 530 892",
    "couch": "831",
    "cow": "345-346",
    "cup": "504 968",
    "dog": "151-268",
    "elephant": "101 385-386",
    "fish": "0-6 389-397",
    "frog": "30-32",
    "handbag": "636 748",
    "hat": "439 452 515 793 808",
    "horse": "339",
    "insect": "300-320",
    "keyboard": "508 878",
    "knife": "499 623",
    "laptop": "620 681",
    "lizard": "38-48",
    "monkey": "365-384",
    "motorcycle": "665 670",
    "mouse": "673",
    "orange": "950",
    "oven": "827",
    "person": "981-983",
    "potted plant": "738",
    "refrigerator": "760",
    "sandwich": "933",
    "sheep": "348-349",
    "snake": "52-68",
    "spider": "72-77",
    "spoon": "618 910",
    "table": "532 736",
    "tie": "457 906",
    "toilet": "861",
    "train": "466 547 565 705 820 829",
    "truck": "555 569 675 717 864 867",
    "tv": "664 782 851",
    "wine glass": "441 572 966",
}
"""The everyday name of numbered classes of ImageNet; the others keep their own."""


def bare(name: str) -> str:
    """A class's name without what is added in brackets or behind a slash."""
    return name.split(" (")[0].split(" / ")[0]


def plain_names(names: Sequence[str]) -> list[str]:
    """The name of every class as people say it: "dog" of a Golden Retriever, else its own up to a bracket or slash."""
    plain = [bare(name) for name in names]
    for word, ranges in PLAIN_NAMES.items():
        for part in ranges.split():
            first, _, last = part.partition("-")
            plain[int(first) : int(last or first) + 1] = [word] * (int(last or first) + 1 - int(first))
    return plain


class Looks:
    """Features made to look like a class.

    pooled: (pictures, features), mean features of real pictures, whose covariance is taken. weight: (classes,
    features) of the classifier, bias: (classes).
    """

    def __init__(self, pooled: Tensor, weight: Tensor, bias: Tensor) -> None:
        self.mean = pooled.mean(0)
        centred = pooled - self.mean
        covariance = centred.T @ centred / len(pooled)
        covariance += RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance))
        filters = weight - weight.mean(0)
        directions = filters @ covariance
        self.directions = directions / directions.norm(dim=1, keepdim=True)
        self.spread = centred.norm(dim=1).mean()
        self._weight, self._bias = weight, bias

    def of(self, label: int, cells: Tensor, kept: float, lengths: Sequence[float]) -> Iterator[Tensor]:
        """The cells of a picture, (49, features), with `kept` of what they show left and the class added, at several
        lengths in units of the mean distance of a picture from the mean; only those that the classifier then calls
        so."""
        for length in lengths:
            made = self.mean + kept * (cells - self.mean) + length * self.spread * self.directions[label]
            made = made.clamp(0.0, 6.0)  # as relu6 leaves them
            if int((made.mean(0) @ self._weight.T + self._bias).argmax()) == label:
                yield made
