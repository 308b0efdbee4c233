"""Print the demo's held-out metrics before and after training; exit with code 1 if the model learned too little.

Usage: demo_report.py DEMO_DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

from bert_large.observe.metrics import read_rows

REQUIRED_RATIO = 1.5
"""The accuracy after training must be at least this many times that of always predicting the most frequent token."""

ROWS = {
    "masked_lm_accuracy": "masked-LM accuracy",
    "masked_lm_loss": "masked-LM loss (nats)",
    "next_sentence_accuracy": "next-sentence accuracy",
    "most_frequent_token_accuracy": "accuracy of the most frequent token",
}


def main() -> int:
    """Compare the first evaluation of phase 1 with the last one of phase 2."""
    demo = Path(sys.argv[1])
    before = read_rows(demo / "phase1" / "metrics.jsonl", "eval")[0]
    after = read_rows(demo / "phase2" / "metrics.jsonl", "eval")[-1]
    print("held-out text                            before training   after phase 2")
    for name, label in ROWS.items():
        if before[name] is not None and after[name] is not None:  # a model may have no next-sentence head
            print(f"{label:40} {before[name]:15.4f} {after[name]:15.4f}")
    print(f"model:       {demo / 'phase2' / 'model_save'}")
    print(f"loss curves: {demo / 'curves/masked_lm_loss.png'}")
    print(f"report:      {demo / 'report.html'}")
    required = REQUIRED_RATIO * after["most_frequent_token_accuracy"]
    if after["masked_lm_accuracy"] < required:
        print(
            f"error: the masked-LM accuracy after training is {after['masked_lm_accuracy']:.4f}, expected at least "
            f"{required:.4f}, {REQUIRED_RATIO} times the accuracy of the most frequent token",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
