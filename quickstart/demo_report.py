"""Print what the demo's model learned, and fail if it is not plainly more than a guess.

Usage: demo_report.py DEMO_DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

from bert_large.observe.metrics import read_rows

PLAINLY = 1.5
"""The accuracy after must be this many times that of always guessing the most frequent token."""


def main() -> int:
    """Compare the first evaluation of phase 1 with the last of phase 2."""
    demo = Path(sys.argv[1])
    before = read_rows(demo / "phase1" / "metrics.jsonl", "eval")[0]
    after = read_rows(demo / "phase2" / "metrics.jsonl", "eval")[-1]
    guess = after["most_frequent_token_accuracy"]
    print("held-out text                            before training   after phase 2")
    for name, label in (("masked_lm_accuracy", "masked-LM accuracy"), ("masked_lm_loss", "masked-LM loss (nats)"),
                        ("next_sentence_accuracy", "next-sentence accuracy")):  # fmt: skip
        if before[name] is not None and after[name] is not None:  # a model may have no next-sentence head
            print(f"{label:40} {before[name]:15.4f} {after[name]:15.4f}")
    print(f"{'accuracy of the most frequent token':40} {guess:15.4f} {guess:15.4f}")
    print(f"model:       {demo / 'phase2' / 'model_save'}")
    print(f"loss curves: {demo / 'curves/masked_lm_loss.png'}")
    print(f"all curves, settings and times: {demo / 'report.html'}")
    if after["masked_lm_accuracy"] < PLAINLY * guess:
        print(f"error: the accuracy after is below {PLAINLY} times the most frequent token's", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
