"""The README and the guides: every command of theirs is run here, or is checked as far as it can be without running.

A block of commands has an HTML comment on the line before it. `<!-- run: group -->`: the blocks of a group are run in
order, as one script, on small data and a small model. `<!-- needs: … -->`: the commands need what `NEEDS` names.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from bert_large.cli import COMMANDS, build_parser
from bert_large.convert.from_tensorflow import to_tensorflow
from bert_large.model import pretrained

from tests.support import documents
from tests.support.mlperf import events, values
from tests.support.models import tiny_model, write_config
from tests.support.records import PHASE_2_SHAPE, VOCAB_SIZE, make_records, write_folder
from tests.support.runs import PROJECT

# What a block may need, and what runs such commands instead.
NEEDS = {
    "set-up": "this suite is run by `make test`; tests/integration/test_demo.py and test_notebook.py run the demo",
    "a container engine": "tests/container",
    "Slurm": "tests/integration/test_slurm.py",
    "several hosts": "tests/integration/test_hosts.py and test_ranks.py",
    "Kubernetes": "tests/unit/jobs/test_kubernetes.py checks the files",
    "Azure": "tests/unit/jobs/test_azureml.py checks the files",
    "MLCommons' data": "tests/integration/test_convert.py and test_mlperf.py run such commands on small models",
    "a task's data": "tests/integration/test_finetune.py and the two beside it",
    "an hour": "tests/unit/bench and tests/fault run short forms",
    "a package index": "tests/unit/shell/test_install_torch.py",
}
FOREIGN = {"az", "cat", "cp", "export", "for", "kubectl", "mkdir", "pip", "pip-audit"}
FOLDERS = ("benchmarks", "docker", "docs", "jobs", "licenses", "models", "notebooks", "quickstart", "tests")
SETTINGS_PAGE = "docs/settings.md"
PRETRAIN = ["--dataset-dir", "D", "--output-dir", "O"]


def in_code(document: str) -> list[str]:
    """Return what a document has in single backticks."""
    text = re.sub(r"^```.*?^```$", "", documents.read(document), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def documented_variables() -> set[str]:
    """Return the names of variables that the page of settings tells of."""
    return set(re.findall(r"[A-Za-z][A-Za-z0-9_]+", " ".join(in_code(SETTINGS_PAGE))))


def check_options(command: Sequence[str]) -> None:
    """Have the command's own parser read the words after `bert-large`; fail on what it doesn't know."""
    try:
        build_parser(command[0]).parse_args(command)
    except SystemExit as exit_:
        assert exit_.code == 0, command


def check_command(words: list[str]) -> None:
    """Fail on a script, a target, an option or a file that isn't there, and on a program nobody has thought of."""
    program, arguments = words[0], words[1:]
    for word in words:
        name = word.removeprefix("./")
        if name.startswith(tuple(f"{folder}/" for folder in FOLDERS)) and not re.search(r"[*$]", name):
            assert (PROJECT / name).exists(), word
    if program == "sbatch":
        script = next(number for number, word in enumerate(arguments) if word.endswith(".sh"))
        words = arguments[script:]
        program, arguments = words[0], words[1:]
    if program.endswith("bert-large"):
        check_options(arguments)
    elif program.endswith(".sh"):
        assert (PROJECT / program).exists(), program
        if program != "./build.sh" and "prepare" not in program:
            check_options(["pretrain", *PRETRAIN, *arguments])
    elif program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
        assert {word for word in arguments if re.fullmatch("[a-z-]+", word)} <= targets
    elif program in (".venv/bin/python", "python"):
        assert arguments[0] in ("-", "-m") or (PROJECT / arguments[0]).exists(), words
    elif program.startswith("."):
        assert (PROJECT / program).exists(), program
    else:
        assert program in FOREIGN, f"{program}: is that a program?"


def option_names(command: str) -> set[str]:
    """Return the long options of a command, those of its sub-commands among them."""
    parsers, found = [build_parser(command)], set()
    while parsers:
        for action in parsers.pop()._actions:
            found |= {option for option in action.option_strings if option.startswith("--")}
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
    return found


@pytest.fixture
def workshop(tmp_path: Path) -> Path:
    """A folder like the project after `make setup`; /data/bert of the documents holds tiny records and a tiny model."""
    documents.make_workshop(tmp_path)
    data = tmp_path / "data" / "bert"
    write_folder(data / "seq_128", make_records(40))
    write_folder(data / "seq_512", make_records(40, lengths=(100, 300)), shape=PHASE_2_SHAPE)
    write_folder(data / "eval", make_records(20, seed=1))
    write_config(data / "bert_config.json")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(number) for number in range(0x61, 0x61 + 26))]
    words += [f"##{word}" for word in words[5:]] + [f"w{number}" for number in range(VOCAB_SIZE - len(words) - 26)]
    (data / "vocab.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    return tmp_path


@pytest.fixture
def text(workshop: Path) -> Path:
    """/data/text of the documents: thirty short articles."""
    folder = workshop / "data" / "text"
    folder.mkdir()
    articles = [[f"the cat number {i} sat on the mat .", "then it ran away .", f"{i} dogs slept ."] for i in range(30)]
    joined = "\n\n".join("\n".join(article) for article in articles)
    (folder / "part-00000-of-00001").write_text(joined, encoding="utf-8")
    return folder


@pytest.mark.parametrize("document", documents.DOCUMENTS)
def test_every_block_is_marked(document: str) -> None:
    """A new block of commands says how it is tested."""
    for block in documents.blocks(document):
        assert block.mark, f"{block}: write <!-- run: group --> or <!-- needs: … --> on the line before"
        assert block.mark == "run" or block.what in NEEDS, f"{block}: unknown need {block.what}"


def test_every_group_is_run_here() -> None:
    """A new group gets a test below."""
    source = Path(__file__).read_text(encoding="utf-8")
    for document, group in documents.groups():
        assert f'run_group("{document}", "{group}"' in source, f"{document}: group {group} is run by no test"


@pytest.mark.parametrize("document", documents.DOCUMENTS)
def test_commands_exist(document: str) -> None:
    """Scripts, options and files of every command are there, and its variables are in the table of settings."""
    documented = documented_variables()
    for block in documents.blocks(document):
        subprocess.run(["bash", "-n", "-c", block.text], check=True)
        unknown = documents.variables(block.text) - documented
        assert not unknown, f"{block}: {SETTINGS_PAGE} does not tell of {', '.join(sorted(unknown))}"
        for words in documents.commands(block.text):
            check_command(words)


@pytest.mark.parametrize("document", documents.DOCUMENTS)
def test_commands_in_sentences_exist(document: str) -> None:
    """`bert-large …` in a sentence names a command of ours and options that it has; make's targets are there."""
    for code in in_code(document):
        words = code.split()
        if words[0].endswith("bert-large") and len(words) > 1 and words[1].isalpha():
            assert words[1] in COMMANDS, code
            options = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert options <= option_names(words[1]), code
        if words[0] == "make" and len(words) > 1:
            check_command(words)


@pytest.mark.parametrize("document", documents.DOCUMENTS)
def test_links_and_paths_lead_somewhere(document: str) -> None:
    """Links to files and their headings, and paths of this project in backticks."""
    text = documents.read(document)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (PROJECT / document).parent / name if name else PROJECT / document
        assert path.exists(), target
        if anchor:
            assert anchor in documents.anchors(path.resolve().relative_to(PROJECT).as_posix()), target
    for code in in_code(document):
        name = code.removeprefix("./").partition("#")[0]
        if name.startswith(tuple(f"{folder}/" for folder in FOLDERS)) and " " not in name:
            pattern = re.sub(r"…|\{[^}]*\}", "*", name)
            assert list(PROJECT.glob(pattern)), code


def test_every_guide_is_in_the_readme() -> None:
    linked = set(re.findall(r"\]\(([^)#]+)", documents.read("README.md")))
    assert {name for name in documents.DOCUMENTS if name != "README.md"} <= linked


def test_quoted_messages_are_those_of_the_source() -> None:
    """A message that has changed is found by nobody who searches for it."""
    rows = re.findall(r"^\| `(.+?)` \|", documents.read("docs/TROUBLESHOOTING.md"), re.MULTILINE)
    assert len(rows) > 30
    missing = [message for message in rows if not documents.is_in_source(message)]
    assert missing == []


SMALL = {"BATCH_SIZE": "8", "MAX_STEPS": "7"}


@pytest.mark.slow
def test_readme_trains(workshop: Path) -> None:
    """A look at the machine, both phases, an evaluation, a report and exports; and what OUTPUT.md looks at."""
    printed = documents.run_group("README.md", "train", workshop, SMALL)
    runs = workshop / "runs"
    for phase in ("phase1", "phase2"):
        config = json.loads((runs / phase / "model_save" / "config.json").read_text())
        assert config["vocab_size"] == VOCAB_SIZE
    assert re.search(r"masked_lm_accuracy 0\.\d+", printed)
    assert "on 20 samples" in printed
    assert (runs / "report.html").stat().st_size > 10_000
    assert (runs / "curves" / "masked_lm_loss.png").stat().st_size > 1000
    assert (runs / "hugging-face" / "tokenizer.json").exists()
    assert (runs / "onnx" / "encoder.onnx").exists()
    printed = documents.run_group("docs/OUTPUT.md", "look", workshop, {})
    assert json.loads(printed.splitlines()[-1])["masked_lm_accuracy"] >= 0


def test_readme_makes_records(workshop: Path, text: Path) -> None:
    """A vocabulary and the records of both phases from a folder of text."""
    documents.run_group("README.md", "text", workshop, {})
    records = workshop / "data" / "own"
    for folder, name in (("seq_128", "part-00000-of-00002_128"), ("seq_512", "part-00001-of-00002")):
        visible = [path.name for path in (records / folder).iterdir() if not path.name.startswith(".")]
        assert sorted(visible) == ["manifest.json", name]
    assert (records / "vocab.txt").read_text().startswith("[PAD]\n")


def test_settings_are_listed(workshop: Path) -> None:
    printed = documents.run_group("docs/settings.md", "help", workshop, {})
    assert "--global-batch-size" in printed and "mlperf-256: MLPerf BERT at global batch 256" in printed


def test_ranks_are_shown(workshop: Path) -> None:
    printed = documents.run_group("docs/CLUSTER.md", "ranks", workshop, {"RANKS_PER_NODE": "1"})
    assert len(re.findall(r"^rank 0 here: \d+ thread", printed, re.MULTILINE)) == 2


def test_choices_are_measured(workshop: Path) -> None:
    """The machine is looked at, and steps are timed without anything being saved."""
    printed = documents.run_group("docs/PRECISION_AND_BATCH.md", "choose", workshop, SMALL)
    assert "predicted for micro-batches of 4096 tokens" in printed
    assert "products' bound" in printed
    assert "BERT;training phase1 throughput;fp32; 8;" in printed
    assert not (workshop / "runs" / "speed" / "checkpoints").exists()


def test_benchmarks(workshop: Path) -> None:
    """On a model of 32 hidden units: each command prints one object."""
    small = {"--json": "--json --hidden-size 32 --rounds 1 --compare"}
    printed = documents.run_group("docs/MEASURED.md", "bench", workshop, {}, small)
    figures = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert [its["benchmark"] for its in figures] == ["step", "train"]
    assert "step_over_gemm" in figures[0] and "sequences_per_second" in figures[1]


@pytest.mark.slow
def test_mlperf_guide(workshop: Path, text: Path) -> None:
    """From text and a TensorFlow checkpoint of a tiny model to a log; the guide's checker is run by test_mlperf.py."""
    data = workshop / "data" / "mlperf"
    data.mkdir()
    for name in ("text", "eval_text"):
        (data / name).symlink_to(text)
    for name in ("vocab.txt", "bert_config.json"):
        shutil.copy(workshop / "data" / "bert" / name, data)
    model = tiny_model()
    pretrained.save_model(data / "model", model, model.config, None)
    to_tensorflow(data / "model", data / "tf1_ckpt" / "model.ckpt-28252", step=0, overwrite=False)
    smaller = {"--count 10000": "--count 20"}
    printed = documents.run_group("docs/MLPERF.md", "mlperf", workshop, SMALL | {"MAX_STEPS": "2"}, smaller)
    assert re.search(r"masked_lm_accuracy 0\.\d+ .*on 20 samples", printed)
    log = workshop / "runs" / "mlperf" / "1" / "result_0.txt"
    assert values(log)["submission_org"] == "An Organisation"
    assert events(log)[-1]["metadata"]["status"] == "aborted"


@pytest.mark.slow
def test_own_corpus_guide(workshop: Path) -> None:
    """The whole way, with fewer steps and records than the guide has."""
    fewer = {"MAX_STEPS": "20", "DUPE_FACTOR": "1", "EVAL_RECORDS": "20", "PHASE1_FRACTION": "1"}
    fewer |= {"EPOCHS": "1", "MAX_TRAIN_SAMPLES": "64"}
    printed = documents.run_group("docs/OWN_CORPUS.md", "own", workshop, fewer)
    runs = workshop / "runs" / "own"
    assert "0 problem" in printed
    assert len(re.findall(r"training ended: all 20 steps done", printed)) == 2
    assert re.search(r"^validation accuracy +0\.\d+ +0\.\d+ +0\.\d+ +0\.\d+$", printed, re.MULTILINE)
    assert (runs / "report.html").exists() and (runs / "onnx" / "pretraining.onnx").exists()
    assert len(re.findall(r"^0\.\d{3} the\b", printed, re.MULTILINE)) == 5
