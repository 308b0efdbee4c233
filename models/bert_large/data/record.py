"""One pretraining record: a masked pair of segments with its labels, real tokens only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Record:
    """A sequence [CLS] A [SEP] B [SEP] without padding.

    `input_ids` int32 [length], `token_type_ids` uint8 [length] (0 for A, 1 for B), `masked_positions` int32
    [predictions] (indices into the sequence), `masked_ids` int32 [predictions] (the original tokens there),
    `next_sentence_label` 1 when B is random, 0 when it follows A.
    """

    input_ids: NDArray[np.int32]
    token_type_ids: NDArray[np.uint8]
    masked_positions: NDArray[np.int32]
    masked_ids: NDArray[np.int32]
    next_sentence_label: int


@dataclass(frozen=True, slots=True)
class RecordShape:
    """What every record of a data set has on disk: slots for tokens and slots for predictions."""

    max_seq_length: int
    max_predictions: int
