"""The model card: what the model folder and its run's folder say, and nothing else."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bert_large.config.differences import flatten
from bert_large.config.model import ModelConfig
from bert_large.errors import DamageError, InputError
from bert_large.observe.metrics import read_rows
from bert_large.report.recorded_run import read_start_lines
from bert_large.storage.atomic import read_json
from bert_large.train.run_folder import ENDED_FILE, RUN_FILE, flat_identity

_STEP_FIGURES = ("step", "samples", "masked_lm_loss", "masked_lm_accuracy", "next_sentence_loss",
                 "next_sentence_accuracy", "skipped_updates")  # fmt: skip
_DATA = re.compile(
    r"(\w+) data: (\d+) records in \d+ shards of .*, (\d+) real tokens, .* (?:a|per) record of (\d+) slots"
)
"""A line of the log; a folder's path is nobody else's business."""
_USE = """## Use

```python
import torch
from transformers import {automatic_class}, AutoTokenizer

folder = "."  # where this file lies
tokenizer = AutoTokenizer.from_pretrained(folder)
model = {automatic_class}.from_pretrained(folder).eval()
inputs = tokenizer("Paris is the [MASK] of France.", return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).{prediction_output}
(place,) = (inputs.input_ids[0] == tokenizer.mask_token_id).nonzero()[0]
print(tokenizer.decode(logits[0, place].topk(5).indices))
```

Load the tokenizer with `AutoTokenizer`, which takes `tokenizer.json` as it is: its rules are those that the training
records were made with."""
_NOT_RECORDED = """## Not recorded

The text's sources, language and license, the model's license, its accuracy in tasks other than pretraining, and its
biases are not known to the program that wrote this card. Add them before you publish the model."""


def model_card(
    config: ModelConfig, parameters: int, do_lower_case: bool, run_dir: Path | None, strip_accents: bool | None = None
) -> str:
    """Return the card in Markdown; `run_dir` None: how the model was trained is not known.

    Raises `InputError` when the run's files cannot be read, or are of another model.
    """
    strips = do_lower_case if strip_accents is None else strip_accents
    letters = f"{'lowercased' if do_lower_case else 'cased'}, accents {'stripped' if strips else 'kept'}"
    model = dataclasses.asdict(config) | {"parameters": f"{parameters:,}", "letters of the text": letters}
    front_matter = {
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "tags": [config.traits.model_type, "pretraining"],
    }
    use = _USE.format(automatic_class=config.traits.automatic_class, prediction_output=config.traits.prediction_output)
    parts = [
        f"---\n{yaml.safe_dump(front_matter, sort_keys=False)}---",
        f"# {config.traits.title}, pretrained",
        config.traits.description,
        f"## Model\n\n{_table(model)}",
    ]
    if run_dir is None:
        parts.append("## Training\n\nThere was no run's folder beside the model: how it was trained is not recorded.")
    else:
        parts += _run_sections(config, run_dir)
    return "\n\n".join([*parts, use, _NOT_RECORDED]) + "\n"


def _run_sections(config: ModelConfig, folder: Path) -> list[str]:
    try:
        run = read_json(folder / RUN_FILE)
        identity, model = flat_identity(run), flatten({"model": dataclasses.asdict(config)})
        settings = {name: value for name, value in identity.items() if name not in model}
        if not model.items() <= identity.items():
            raise InputError(
                f"--run-dir {folder} is the run of another model; give the folder of the run that made this one"
            )
        metrics, results = folder / "metrics.jsonl", folder / "results.yaml"
        evaluations = read_rows(metrics, "eval") if metrics.exists() else []
        steps = read_rows(metrics, "step") if metrics.exists() else []
        throughput = yaml.safe_load(results.read_text(encoding="utf-8"))["results"] if results.exists() else []
        figures = {f"{its['key']} ({its['unit']})": its["value"] for its in throughput}
        ended = read_json(folder / ENDED_FILE) if (folder / ENDED_FILE).exists() else {}
        end = f"The run ended: {ended['reason']}." if ended else "The run has not noted that it ended."
    except FileNotFoundError as error:
        raise InputError(f"--run-dir {folder} is no run's folder: it has no {Path(error.filename).name}") from None
    except DamageError as error:
        raise InputError(f"--run-dir: {error}") from None
    except (KeyError, TypeError, AttributeError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"--run-dir {folder}: its files are damaged: {error!r}") from None
    last_step = {name: value for name, value in steps[-1].items() if name in _STEP_FIGURES} if steps else {}
    last_evaluation = {name: value for name, value in evaluations[-1].items() if name != "event"} if evaluations else {}
    introduction = (
        "Settings of the run of `bert-large` that this model comes from; `data` is a digest of its records. Training "
        "before that run, of an earlier phase, is not recorded with it."
    )
    sections = [f"## Training\n\n{introduction}\n\n{_table(settings)}\n\n{end}"]
    for title, values in (
        ("Data", _data(folder)),
        ("Last evaluation, on held-out records", last_evaluation),
        ("Last step, on the training records", last_step),
        ("Summary of the run", figures),
    ):
        if values:
            sections.append(f"## {title}\n\n{_table(values)}")
    return sections


def _data(folder: Path) -> dict[str, str]:
    """Return how many records the run's log says that it was trained and evaluated on."""
    found = filter(None, map(_DATA.match, read_start_lines(folder)))
    return {
        f"{match[1]} records": f"{int(match[2]):,} of up to {match[4]} tokens, {int(match[3]):,} tokens in all"
        for match in found
    }


def _table(values: Mapping[str, Any]) -> str:
    rows = (f"| {name} | {_text(value)} |" for name, value in values.items())
    return "\n".join(["| | |", "|---|---|", *rows])


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value).replace("|", "\\|").replace("\n", " ")
