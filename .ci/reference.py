"""The reference page of settings, and the lists of variables that the shell scripts use, both from the settings."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import script_variables
from bert_large.config.model import ModelConfig
from bert_large.config.options import FROM_ENVIRONMENT, Setting, settings_of
from bert_large.config.presets import CONFIGURATIONS
from bert_large.tables import format_markdown

_PROCESS = settings_of(script_variables.ProcessVariables)
_LAUNCH = settings_of(script_variables.LaunchVariables)
_CONTAINER = settings_of(script_variables.ContainerVariables)
_BUILD = settings_of(script_variables.BuildVariables)
_OTHER = settings_of(script_variables.OtherVariables)
_HOST_ONLY = ("PYTHON",)
_PREPARING = ("corpus", "vocab", "prepare", "pick")


@dataclass(frozen=True, kw_only=True)
class Script:
    """A quickstart script, or several that take the same variables."""

    key: str
    """Prefix of its lists in the shell."""
    names: str
    settings: tuple[Setting, ...]
    """In the order of the reference page, each variable once."""

    @property
    def variables(self) -> list[str]:
        return [item.variable for item in self.settings]


def describe_scripts(commands: Mapping[str, Sequence[Setting]]) -> list[Script]:
    """Return the scripts and their variables; `commands` has the settings of every `bert-large` command."""
    finetuning = [*commands["finetune"], *settings_of(script_variables.FinetuneScriptVariables)]
    threads = [item for item in _LAUNCH if item.variable == "OMP_NUM_THREADS"]
    preparing = list(settings_of(script_variables.PrepareScriptVariables))
    preparing += [item for name in _PREPARING for item in commands[name]]
    only = [item for item in _PROCESS if item.variable in ("MODEL_DIR", "PYTHON")]
    return [
        _script("PRETRAIN", "run_bert_pretrain_phase1.sh, run_bert_pretrain_phase2.sh",
                [*commands["pretrain"], *_LAUNCH, *_PROCESS]),
        _script("FINETUNE", "run_finetune.sh", [*finetuning, *threads, *_PROCESS]),
        _script("PREPARE", "prepare_dataset.sh", [*preparing, *only]),
    ]  # fmt: skip


def _script(key: str, names: str, settings: Iterable[Setting]) -> Script:
    by_variable = {item.variable: item for item in reversed(list(settings)) if item.variable}  # the first one stays
    return Script(key=key, names=names, settings=tuple(reversed(by_variable.values())))


def make_shell_lists(commands: Mapping[str, Sequence[Setting]], regenerate: str) -> str:
    """Return quickstart/variables.sh: names, paths, allowed words and help of the variables, for use without Python."""
    found = describe_scripts(commands)
    lines = [
        "# shellcheck shell=bash",
        f"# The variables of the scripts, generated from the package's settings by: {regenerate}",
        "# shellcheck disable=SC2034  # used by the scripts that source this file",
        "",
    ]
    for script in found:
        paths = [item for item in script.settings if item.path]
        lines += [
            _array(f"{script.key}_VARIABLES", [name for name in script.variables if name not in _HOST_ONLY]),
            _array(f"{script.key}_INPUTS", [item.variable for item in paths if item.path == "input"]),
            _array(f"{script.key}_OUTPUTS", [item.variable for item in paths if item.path == "output"]),
            _table(f"{script.key}_CHOICES", _choices(script.settings)),
            _help(script.key, script.settings),
            "",
        ]
    settings = [item for script in found for item in script.settings]
    aliases = dict.fromkeys(f"{alias}={item.variable}" for item in settings for alias in item.aliases)
    words = {item.variable: " ".join(item.words) for item in settings if item.words}
    lines += [
        _array("FOREIGN_VARIABLES", script_variables.FOREIGN_VARIABLES),
        _array("PROXY_VARIABLES", script_variables.PROXY_VARIABLES),
        _array("CONTAINER_VARIABLES", [item.variable for item in _CONTAINER]),
        _help("CONTAINER", _CONTAINER),
        _help("BUILD", _BUILD),
        _array("BUILD_VARIABLES", [item.variable for item in _BUILD]),
        _array("OTHER_VARIABLES", [*(item.variable for item in _OTHER), *_HOST_ONLY]),
        "# An older or later name of a variable, and the name used here, which wins when both are set.",
        _array("VARIABLE_ALIASES", aliases),
        "# Values of path variables that are words, not paths.",
        _table("PATH_WORDS", words),
    ]
    return "\n".join(lines) + "\n"


def _choices(settings: Iterable[Setting]) -> dict[str, str]:
    booleans = {item.variable: "0 1 false true no yes" for item in settings if item.kind is bool}
    return booleans | {item.variable: " ".join(item.choices) for item in settings if item.choices}


def _array(name: str, words: Iterable[str]) -> str:
    body = textwrap.wrap(" ".join(words), 116, break_long_words=False, break_on_hyphens=False)
    return "\n".join([f"{name}=(", *(f"  {line}" for line in body), ")"])


def _table(name: str, values: Mapping[str, str]) -> str:
    return "\n".join(
        [f"declare -A {name}=(", *(f"  [{key}]={shlex.quote(value)}" for key, value in values.items()), ")"]
    )


def _help(key: str, settings: Iterable[Setting]) -> str:
    """Return a shell function that prints one entry per variable."""
    lines = []
    for item in settings:
        default = item.describe_default()
        text = item.help + (f" (default: {default})" if default and not item.required else "")
        lines += textwrap.wrap(text, 118, initial_indent=f"  {item.variable:24}", subsequent_indent=" " * 26)
    return "\n".join([f"print_{key}_help() {{", "  cat <<'END'", *lines, "END", "}"])


def make_page(commands: Mapping[str, Sequence[Setting]], regenerate: str) -> str:
    """Return docs/settings.md."""
    found = {script.key: script for script in describe_scripts(commands)}
    preparing = _commands_of(commands)
    parts = [
        _INTRODUCTION.format(regenerate=regenerate, from_environment=FROM_ENVIRONMENT),
        "## Pretraining",
        "`bert-large pretrain`, `run_bert_pretrain_phase1.sh` and `run_bert_pretrain_phase2.sh`. The scripts also need "
        "`PRECISION`, `CONFIG_FILE` in phase 1, and `CHECKPOINT_DIR` in phase 2; they set `--phase`.",
        _settings_table(commands["pretrain"]),
        "### Several ranks",
        f"Values that you set for OpenMP, oneCCL and MLflow are kept: {_names(script_variables.FOREIGN_VARIABLES)}.",
        _settings_table(_LAUNCH),
        "### Allocator, threads and package",
        "Variables of all quickstart scripts, but `prepare_dataset.sh` uses only `MODEL_DIR` and `PYTHON`.",
        _settings_table(_PROCESS),
        "## Models",
        "`CONFIG_FILE` is a `bert_config.json` in Google's format, a `config.json` in Hugging Face's, or one of these "
        "names. Attention heads have size 64. GELU is the tanh form, DistilBERT's the erf form.",
        _models_table(),
        "A file has these keys. Misspelled and repeated ones are refused, and so are keys that describe another model, "
        "such as `is_decoder`; others are ignored.",
        _keys_table(),
        "## Recipes",
        _RECIPES,
        "## Text to records",
        "`prepare_dataset.sh` runs the commands `corpus`, `vocab`, `prepare` and `pick`. Options after its name are "
        "options of `prepare`.",
        _settings_table(settings_of(script_variables.PrepareScriptVariables)),
        *preparing,
        "## Fine-tuning",
        "`bert-large finetune` and `run_finetune.sh`. Without `DATASET_DIR`, data sets come from Hugging Face's hub.",
        _settings_table([item for item in found["FINETUNE"].settings if item not in (*_LAUNCH, *_PROCESS)]
                        + [item for item in commands["finetune"] if not item.variable]),
        "## Evaluation",
        "`bert-large evaluate`.",
        _settings_table(commands["evaluate"]),
        "## `run.sh`",
        "`run.sh` also takes the variables of the script that it starts. Proxies are passed on.",
        _settings_table(_CONTAINER),
        "## `build.sh`",
        "Proxies, `PIP_INDEX_URL`, `PIP_EXTRA_INDEX_URL`, `PIP_FIND_LINKS` and `PIP_TRUSTED_HOST` are passed on.",
        _settings_table(_BUILD),
        "## Other variables",
        _settings_table(_OTHER),
        _MAKE,
    ]  # fmt: skip
    return "\n\n".join(_wrap(part) for part in parts) + "\n"


def _wrap(part: str) -> str:
    """Wrap a paragraph that is one long line; tables and text that has lines already stay."""
    return part if "\n" in part else textwrap.fill(part, 120, break_long_words=False, break_on_hyphens=False)


def _commands_of(commands: Mapping[str, Sequence[Setting]]) -> list[str]:
    return [part for name in _PREPARING for part in (f"### `bert-large {name}`", _settings_table(commands[name]))]


def _settings_table(settings: Iterable[Setting]) -> str:
    items = list(settings)
    rows = []
    for item in items:
        names = [item.variable, *item.aliases] if item.variable else []
        option = f"`--{item.option}`" if item.option else ""
        meaning = item.help + (f", in {item.unit}" if item.unit else "")
        rows.append([_names(names), option, meaning, _values(item), item.describe_default()])
    header = ["Variable", "Option", "Meaning", "Values", "Default"]
    kept = [column for column in range(5) if any(row[column] for row in rows)]
    return format_markdown([[row[column] for column in kept] for row in [header, *rows]])


def _values(item: Setting) -> str:
    if item.choices:
        return _names(item.choices)
    if item.kind is bool:
        return "true or false" if item.option or item.variable else ""
    if item.kind in (int, float):
        return item.describe_values().removeprefix("a finite ").removeprefix("an ").removeprefix("a ")
    return ("path, or " + _names(item.words) if item.words else "path") if item.path else ""


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _models_table() -> str:
    header = ["Name", "Layers", "Hidden size", "Class of transformers"]
    rows = [[f"`{name}`", str(config.num_hidden_layers), str(config.hidden_size), f"`{config.architecture}`"]
            for name, config in CONFIGURATIONS.items()]  # fmt: skip
    return format_markdown([header, *rows])


def _keys_table() -> str:
    rows = [[f"`{item.name}`", item.help, _values(item), item.describe_default()]
            for item in settings_of(ModelConfig) if item.name != "architecture"]  # fmt: skip
    return format_markdown([["Key", "Meaning", "Values", "Default"], *rows])


_INTRODUCTION = """# Settings

Generated from the code by `{regenerate}`.

Settings are options of `bert-large` and environment variables of `./run.sh` and the scripts in `quickstart/`. An option
wins over a variable, a variable over the recipe, and the recipe over the default. The log of a run lists the origin of
each value. Options after a script's name are passed to its command:
`quickstart/run_bert_pretrain_phase1.sh --optimizer adamw --gelu erf`.

`bert-large` reads variables only with `{from_environment}`, which the scripts give it. Names in the same cell are
aliases; the first one wins. Words are accepted in upper and lower case. A boolean variable is `1`, `true` or `yes`, or
`0`, `false` or `no`. Missing and wrong settings end a command with one line that names all of them and exit code 2,
before anything starts; so does a variable whose name is a misspelling of one of the script's variables.

<!-- run: help -->
```bash
.venv/bin/bert-large pretrain --help
.venv/bin/bert-large recipes
.venv/bin/bert-large recipes mlperf-256 --precision bf16
```"""
_RECIPES = """`bert-large recipes` shows the purpose, batch, rate and steps of each recipe: those of Intel's package
and its MLPerf submissions, MLCommons' reference convergence points for MLPerf (`mlperf-256` to `mlperf-8192`), NVIDIA's
two phases, the original BERT's for several sizes, DistilBERT's, one like RoBERTa's, continued pretraining, a day on one
node, and the demo's. With a name it shows every setting of that recipe.

`distilbert` and `roberta-like` are for phase 2 alone, from new weights, which the script of phase 2 does not start
from. The last `--phase` counts:
`CONFIG_FILE=distilbert-base RECIPE=distilbert quickstart/run_bert_pretrain_phase1.sh --phase 2`."""
_MAKE = (
    "`make` takes `PYTHON` and `CXX`, the interpreter and compiler of the environment, and `VENV` and `IPEX_VENV`, its "
    "folders (`.venv`, `.venv-ipex`). `PYTEST_ARGS`, `FAULT_ARGS`, `SOAK_ARGS`, `AUDIT_ARGS` and `BENCH_ARGS` are "
    "passed to the tests and to `make fault`, `make soak`, `make audit` and `make bench`; `FUZZ_RUNS` is the number of "
    "inputs per reader of `make fuzz`. `make help` lists the targets."
)
