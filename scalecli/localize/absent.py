"""Is it there at all? A prompt's score against those of common words on the same picture.

A map scaled from its minimum to its maximum paints something for any prompt, and the score itself
has no zero: CLIP's cosines live near 0.2 whatever the picture shows. What 200 common words score
on the same picture is the yardstick: most of them are absent from it.
"""

from __future__ import annotations

import torch
from torch import Tensor

_NOUNS = """
    person man woman child baby face hand crowd
    dog cat horse cow sheep goat pig elephant bear zebra giraffe lion tiger monkey rabbit mouse
    squirrel deer fox wolf bird duck chicken owl eagle parrot penguin fish shark whale frog snake
    lizard turtle crab spider bee butterfly ant snail
    tree flower rose leaf grass bush mushroom forest garden field farm mountain hill rock sand beach
    desert sea river lake waterfall island snow ice cloud sky sun moon star fire smoke rain
    house building tower church temple castle bridge street road path fence wall roof window door
    stairs room kitchen bathroom bedroom office shop restaurant school hospital stadium station
    airport harbour
    car bus truck train airplane helicopter boat ship bicycle motorcycle tractor wheel
    table chair sofa bed lamp mirror carpet curtain shelf clock vase bottle cup glass bowl plate
    knife fork spoon oven refrigerator toilet bathtub sink
    computer laptop keyboard telephone television camera book newspaper pen paper map flag coin
    key box bag suitcase umbrella hat shirt dress shoe glasses ring necklace watch
    apple banana orange strawberry grapes lemon tomato potato carrot corn bread cheese egg meat
    pizza sandwich cake chocolate soup coffee wine beer
    ball kite skateboard guitar piano drum violin microphone toy balloon statue painting
    hammer saw scissors rope ladder tent gun sword
    """
WORDS = tuple(_NOUNS.split())
"""The yardstick: nouns that pictures are taken of, no two of one meaning."""
EVERY = 8
"""Every so many of them are enough to know how far an absent word's map reaches."""
ABSENT_BELOW = 0.0
"""A prompt that scores below the average common word is "probably not present"."""
PRESENT_FROM = 1.0
"""One this many standard deviations above it is present; between the two nothing is said."""


def contrast(scores: Tensor, bank: Tensor) -> Tensor:
    """Standard deviations of scores [B, P] above the mean of common words' scores [B, K].

    Chosen with the embedded model on seven photographs (COCO, ADE20K, scikit-learn) and 736 words
    known to be present or absent: as good as a softmax against the bank (area under the ROC curve
    .77 for both at the time), better than the same contrast of the maps' highest values (.73).
    Now: area .81 (.74 to .88 over photographs). Of present words 40 % are called present and 13 %
    probably not; of absent ones 9 % and 57 %. Of the words decided at all, 86 % rightly.

    On a model and pictures that had no part in the choice, the shapes CLIP and 500 held-out scenes
    with 64 phrases each: area .97; of present phrases 98 % are called present and none probably
    not, of absent ones 15 % and 59 %.
    """
    spread = bank.std(dim=-1, keepdim=True).clamp_min(torch.finfo(bank.dtype).tiny)
    return (scores - bank.mean(dim=-1, keepdim=True)) / spread


def verdict(contrast: float) -> bool | None:
    """Present, probably not present, or (None) neither can be said."""
    if contrast >= PRESENT_FROM:
        return True
    return False if contrast < ABSENT_BELOW else None
