"""Build the model card using only the files of the model folder and its run's folder."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from bert_large.config.differences import flatten
from bert_large.config.model import ModelConfig
from bert_large.errors import DamageError, InputError
from bert_large.observe.metrics import read_rows
from bert_large.prepare.casing import Casing
from bert_large.report.recorded_run import read_start_lines
from bert_large.storage.atomic import read_json
from bert_large.tables import format_markdown
from bert_large.train.run_folder import ENDED_FILE, RUN_FILE, flat_identity

_TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
_STEP_METRICS = ("step", "samples", "masked_lm_loss", "masked_lm_accuracy", "next_sentence_loss",
                 "next_sentence_accuracy", "skipped_updates")  # fmt: skip
# A line of the log. The folder's path is not copied: it is of no use to others, and may be private.
_DATA = re.compile(
    r"(\w+) data: (\d+) records in \d+ shards of .*, (\d+) real tokens, .* (?:a|per) record of (\d+) slots"
)


def model_card(config: ModelConfig, parameters: int, casing: Casing, run_dir: Path | None) -> str:
    """Return the card in Markdown; raise `InputError` if the run's files cannot be read or are of another model."""
    model = dataclasses.asdict(config) | {"parameters": f"{parameters:,}", "text normalization": casing.description}
    traits = config.traits
    card = ModelCard.from_template(
        ModelCardData(
            library_name="transformers", pipeline_tag="fill-mask", tags=[traits.model_type, "pretraining"]
        ),
        template_path=str(_TEMPLATE),
        title=traits.title,
        description=traits.description,
        model=_table(model),
        automatic_class=traits.automatic_class,
        prediction_output=traits.prediction_output,
        **({} if run_dir is None else _read_run(config, run_dir)),
    )  # fmt: skip
    return f"{card.content.rstrip()}\n"


def _read_run(config: ModelConfig, folder: Path) -> dict[str, Any]:
    """Return what the template needs to know about the run: its settings, its end, and a table for each heading."""
    try:
        run = read_json(folder / RUN_FILE)
        identity, model = flat_identity(run), flatten({"model": dataclasses.asdict(config)})
        settings = {name: value for name, value in identity.items() if name not in model}
        if not model.items() <= identity.items():
            advice = "give the folder of the run that made this one"
            raise InputError(f"--run-dir {folder} is the run of another model; {advice}")
        metrics, results = folder / "metrics.jsonl", folder / "results.yaml"
        evaluations = read_rows(metrics, "eval") if metrics.exists() else []
        steps = read_rows(metrics, "step") if metrics.exists() else []
        throughput = yaml.safe_load(results.read_text(encoding="utf-8"))["results"] if results.exists() else []
        summary = {f"{result['key']} ({result['unit']})": result["value"] for result in throughput}
        ended = read_json(folder / ENDED_FILE) if (folder / ENDED_FILE).exists() else {}
        end = f"The run ended: {ended['reason']}." if ended else "The run has not recorded that it ended."
    except FileNotFoundError as error:
        raise InputError(f"--run-dir {folder} is not a run's folder: it has no {Path(error.filename).name}") from None
    except DamageError as error:
        raise InputError(f"--run-dir: {error}") from None
    except (KeyError, TypeError, AttributeError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"--run-dir {folder}: its files are damaged: {error!r}") from None
    last_step = {name: value for name, value in steps[-1].items() if name in _STEP_METRICS} if steps else {}
    last_evaluation = {name: value for name, value in evaluations[-1].items() if name != "event"} if evaluations else {}
    tables = {
        "Data": _data(folder),
        "Last evaluation, on held-out records": last_evaluation,
        "Last step, on the training records": last_step,
        "Summary of the run": summary,
    }
    sections = {heading: _table(values) for heading, values in tables.items() if values}
    return {"training": _table(settings), "end": end, "sections": sections}


def _data(folder: Path) -> dict[str, str]:
    """Return the number of records for training and evaluation, from the run's log."""
    found = filter(None, map(_DATA.match, read_start_lines(folder)))
    return {
        f"{match[1]} records": f"{int(match[2]):,} of up to {match[4]} tokens, {int(match[3]):,} tokens in all"
        for match in found
    }


def _table(values: Mapping[str, Any]) -> str:
    return format_markdown([["", ""], *([name, _text(value)] for name, value in values.items())])


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
