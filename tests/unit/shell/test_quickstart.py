"""The quickstart scripts start one command, which reads the variables, or nothing when a variable is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from bert_large.cli import expand_environment
from bert_large.config.presets import CONFIGURATIONS

from .sandbox import PROJECT, Sandbox

PHASE_1 = "quickstart/run_bert_pretrain_phase1.sh"
PHASE_2 = "quickstart/run_bert_pretrain_phase2.sh"
FINETUNE = "quickstart/run_finetune.sh"
PREPARE = "quickstart/prepare_dataset.sh"
LAUNCH = ["-m", "bert_large.distributed.launch"]


def test_phase_1_is_one_command(phase_1: Sandbox) -> None:
    call = phase_1.succeed(PHASE_1)
    assert call.arguments == [*LAUNCH, "-m", "bert_large", "pretrain", "--phase", "1", "--from-environment"]
    parsed = call.parse()
    assert parsed.precision == "bf16"
    assert {name: str(getattr(parsed, name.lower())) for name in ("OUTPUT_DIR", "DATASET_DIR", "CONFIG_FILE")} == {
        name: phase_1.variables[name] for name in ("OUTPUT_DIR", "DATASET_DIR", "CONFIG_FILE")
    }
    assert Path(phase_1.variables["OUTPUT_DIR"]).is_dir()


def test_phase_2_starts_from_the_checkpoint(phase_2: Sandbox) -> None:
    parsed = phase_2.succeed(PHASE_2).parse()
    assert (parsed.phase, str(parsed.checkpoint_dir)) == (2, phase_2.variables["CHECKPOINT_DIR"])
    assert parsed.config_file is None


@pytest.mark.parametrize(("kind", "script"), [("phase_2", PHASE_2), ("finetune", FINETUNE)])
def test_a_checkpoint_may_be_a_name_on_the_hub(kind: str, script: str, request: pytest.FixtureRequest) -> None:
    """Unless a folder here has the owner's name."""
    sandbox: Sandbox = request.getfixturevalue(kind)
    sandbox.variables["CHECKPOINT_DIR"] = "owner/a.published-model"
    assert str(sandbox.succeed(script).parse().checkpoint_dir) == "owner/a.published-model"
    sandbox.variables["CHECKPOINT_DIR"] = f"{Path(sandbox.folder('owner')).name}/a.published-model"
    assert "owner/a.published-model" in sandbox.refuse(script)


def test_every_variable_reaches_its_setting(phase_1: Sandbox) -> None:
    """Also those with names of Intel's package."""
    values = {"MICRO_BATCH_TOKENS": "4096", "MAX_STEPS": "13700", "TOTAL_STEPS": "14063", "MAX_SAMPLES": "4500000",
              "TARGET_ACCURACY": "0.72", "LEARNING_RATE": "3.5e-4", "WARMUP_STEPS": "100", "RECIPE": "demo",
              "ENGINE": "Native", "BACKEND": "gloo", "SEED": "7", "SAVE_EVERY": "500", "STOP_DEADLINE": "20",
              "RESUME": "never", "EVAL_DIR": phase_1.folder("held out"), "MLPERF_STATUS": "onprem",
              "MLPERF_LOG": "/runs/result 0.txt",
              "MLPERF_SUBMITTER": "An Organisation", "MLPERF_DIVISION": "open", "BAD_RECORDS": "skip",
              "MAX_BAD_RECORDS": "9", "RANK_SILENCE": "30", "RANK_TIMEOUT": "60", "WEIGHT_DECAY": "0.5",
              "BENCHMARK": "0", "DYNAMIC_MASKING": "1", "MASKED_LM_ONLY": "True", "batch_size": "448"}  # fmt: skip
    phase_1.variables |= values
    parsed = vars(phase_1.succeed(PHASE_1).parse())
    assert parsed["origins"].keys() == {
        "phase", "precision", "output_dir", "dataset_dir", "config_file", "global_batch_size",
        *(name.lower() for name in values.keys() - {"batch_size"}),
    }  # fmt: skip
    assert (parsed["global_batch_size"], parsed["max_steps"], parsed["learning_rate"]) == (448, 13700, 3.5e-4)
    assert (parsed["engine"], parsed["mlperf_submitter"]) == ("native", "An Organisation")
    assert [parsed[name] for name in ("benchmark", "dynamic_masking", "masked_lm_only")] == [False, True, True]


@pytest.mark.parametrize("script", [PHASE_1, PHASE_2])
def test_text_in_place_of_records(phase_1: Sandbox, script: str) -> None:
    phase_1.variables |= {"TEXT_DIR": phase_1.folder("some text"), "CHECKPOINT_DIR": phase_1.folder("model_save")}
    error = phase_1.refuse(script)
    assert "DATASET_DIR" in error and "TEXT_DIR" in error
    del phase_1.variables["DATASET_DIR"]
    parsed = phase_1.succeed(script).parse()
    assert (str(parsed.text_dir), parsed.dataset_dir) == (phase_1.variables["TEXT_DIR"], None)


def test_names_of_configurations(phase_1: Sandbox) -> None:
    """They are not paths, and are listed where a file is missing."""
    phase_1.variables["CONFIG_FILE"] = "bert"
    assert " ".join(CONFIGURATIONS) in phase_1.refuse(PHASE_1)
    for name in CONFIGURATIONS:
        phase_1.variables["CONFIG_FILE"] = name
        assert phase_1.succeed(PHASE_1).parse().config_file == name


def test_arguments_are_passed_on_last(phase_1: Sandbox) -> None:
    call = phase_1.succeed(PHASE_1, "--no-shuffle", "--seed", "a b", "")
    assert call.arguments[-4:] == ["--no-shuffle", "--seed", "a b", ""]
    phase_1.variables["SEED"] = "7"
    assert phase_1.succeed(PHASE_1, "--seed", "8").parse().seed == 8


@pytest.mark.parametrize(
    ("alias", "name"),
    [("BERT_MODEL_CONFIG", "CONFIG_FILE"), ("batch_size", "BATCH_SIZE"), ("PRETRAINED_MODEL", "CHECKPOINT_DIR")],
)
def test_aliases(phase_1: Sandbox, phase_2: Sandbox, alias: str, name: str) -> None:
    """An alias counts unless the variable itself is set."""
    value = phase_1.variables.pop(name, "56")
    phase_1.variables[alias] = value
    assert phase_1.succeed(PHASE_2).environment[name] == value
    phase_1.variables |= {name: value, alias: "/not/there"}
    assert phase_1.succeed(PHASE_2).environment[name] == value


@pytest.mark.parametrize(
    ("misspelled", "meant"),
    [
        ("PRECISON", "PRECISION"), ("MAX_STEP", "MAX_STEPS"), ("MAX_SETPS", "MAX_STEPS"), ("BATCHSIZE", "BATCH_SIZE"),
        ("LEARNING_RATES", "LEARNING_RATE"), ("ENGIME", "ENGINE"), ("max_steps", "MAX_STEPS"),
        ("DATASET_DIRS", "DATASET_DIR"), ("RUNTIM", "RUNTIME"),
    ],
)  # fmt: skip
def test_a_misspelled_variable_is_noticed(phase_1: Sandbox, misspelled: str, meant: str) -> None:
    phase_1.variables[misspelled] = "1"
    error = phase_1.refuse(PHASE_1)
    assert misspelled in error and f"{meant}?" in error


@pytest.mark.parametrize(
    ("start", "meant", "code"), [("DYNAMIC_MASK", "DYNAMIC_MASKING", 2), ("WARMUP", "WARMUP_STEPS", 0)]
)
def test_the_start_of_a_name_is_noticed(phase_1: Sandbox, start: str, meant: str, code: int) -> None:
    """Most of a name is an error. Less may belong to another program, and is a warning."""
    phase_1.variables[start] = "1"
    result = phase_1.run(PHASE_1)
    assert result.returncode == code and start in result.stderr and f"{meant}?" in result.stderr


def test_other_variables_are_not_misspelled(phase_1: Sandbox) -> None:
    """Variables of other programs, of other scripts of ours, short names, and names without a value."""
    others = ("HOSTNAME", "LANGUAGE", "RANK", "LOCAL_RANK", "PYTHON3", "TASKS", "SEEDS", "SHELL", "PHASE", "WORKERS",
              "MODEL", "OMP_NUM_TEAMS", "SLURM_NNODES", "PYTHONPATH", "PRECISION_MODE", "MAX_JOBS",
              "BASE_IMAGE")  # fmt: skip
    phase_1.variables |= dict.fromkeys(others, "1") | {"MAX_STEP": ""}
    phase_1.succeed(PHASE_1)


@pytest.mark.parametrize("script", [PHASE_1, PHASE_2, FINETUNE, PREPARE])
def test_help(sandbox: Sandbox, script: str) -> None:
    """It needs no variable, starts nothing, and lists the script's variables."""
    for option in ("--help", "-h"):
        result = sandbox.run(script, option)
        assert (result.returncode, result.stderr, sandbox.calls("python3")) == (0, "", [])
        assert f"quickstart/{Path(script).name}" in result.stdout and "\n  MODEL_DIR " in result.stdout
        assert "source" not in result.stdout


def test_a_link_to_a_script(phase_1: Sandbox) -> None:
    link = phase_1.directory / "a link"
    link.symlink_to(phase_1.project / PHASE_1)
    assert phase_1.succeed(str(link)).arguments[:2] == LAUNCH


@pytest.mark.parametrize(
    ("precision", "instructions"),
    [("fp32", "AVX512_CORE_AMX"), ("BF16", "AVX512_CORE_AMX"), ("bf32", "AVX512_CORE_AMX"),
     ("FP16", "AVX512_CORE_AMX_FP16"), ("avx-fp32", None)],
)  # fmt: skip
def test_onednn_may_use_the_instructions_of_the_precision(
    phase_1: Sandbox, precision: str, instructions: str | None
) -> None:
    phase_1.variables |= {"PRECISION": precision, "DNNL_MAX_CPU_ISA": "SSE41"}
    call = phase_1.succeed(PHASE_1)
    assert call.parse().precision == precision.lower()
    assert call.environment.get("DNNL_MAX_CPU_ISA") == instructions


def test_everything_missing_or_wrong_is_one_line(sandbox: Sandbox) -> None:
    sandbox.variables |= {"BENCHMARK": "maybe", "EVAL_DIR": "/not/there", "MAX_STEP": "2"}
    error = sandbox.refuse(PHASE_1)
    assert error.startswith("run_bert_pretrain_phase1.sh: error: ")
    missing = "PRECISION OUTPUT_DIR DATASET_DIR CONFIG_FILE"
    for problem in (missing, "BENCHMARK=maybe", "EVAL_DIR=/not/there", "MAX_STEPS?"):
        assert problem in error
    sandbox.variables = {}
    assert "PRECISION OUTPUT_DIR DATASET_DIR CHECKPOINT_DIR" in sandbox.refuse(PHASE_2)
    assert "INPUT_DIR DATASET_DIR" in sandbox.refuse(PREPARE)
    assert "TASK CHECKPOINT_DIR OUTPUT_DIR" in sandbox.refuse(FINETUNE)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PRECISION", "fp8"), ("DATASET_DIR", "/not/there"), ("DATASET_DIR", "/dev/null"), ("TEXT_DIR", "/not/there"),
        ("CONFIG_FILE", "/not/there.json"), ("CONFIG_FILE", "/"), ("CHECKPOINT_DIR", "/not/there"),
        ("EVAL_DIR", "/not/there"), ("VOCAB_FILE", "/not/there"), ("TRAIN_SCRIPT", "/not/there.py"),
        ("HOSTFILE", "/not/there"), ("MODEL_DIR", "/dev"), ("RESUME", "/not/there"),
        ("OUTPUT_DIR", "/dev/null/output"), ("BENCHMARK", "perhaps"), ("DYNAMIC_MASKING", "2"),
        ("ENGINE", "eager native"), ("MLPERF_DIVISION", "ajar"), ("ALLOCATOR", "hoard"), ("OPENMP", "gnu"),
        ("DDP", "maybe"), ("RANKS_PER_NODE", "two"), ("NNODES", "0"), ("PYTHON", "/not/there/python"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(phase_1: Sandbox, variable: str, value: str) -> None:
    if variable == "TEXT_DIR":
        del phase_1.variables["DATASET_DIR"]
    phase_1.variables[variable] = value
    assert f"error: {variable}={value} " in phase_1.refuse(PHASE_1)


def test_an_environment_without_the_package_is_named(phase_1: Sandbox) -> None:
    phase_1.fake("python3", "os.execv(sys.executable, [sys.executable, '-S', *sys.argv[1:]])")  # without site-packages
    assert "make setup" in phase_1.refuse(PHASE_1)
    assert len(phase_1.calls("python3")) == 1


def test_the_exit_code_is_the_trainers(phase_1: Sandbox) -> None:
    phase_1.fake("python3", "sys.exit(0 if sys.argv[1] == '-c' else 41)")
    assert phase_1.run(PHASE_1).returncode == 41


def test_signals_reach_the_trainer(phase_1: Sandbox) -> None:
    assert phase_1.stop(PHASE_1, "python3") == 43


def test_the_projects_environment_is_preferred(phase_1: Sandbox) -> None:
    environment = phase_1.project / ".venv/bin"
    environment.mkdir(parents=True)
    phase_1.fake("python", directory=environment)
    call = phase_1.succeed(PHASE_1)
    assert (call.tool, call.arguments[:2]) == ("python", LAUNCH)
    assert phase_1.calls("python3") == []
    phase_1.variables["PYTHON"] = str(phase_1.bin / "python3")
    assert phase_1.succeed(PHASE_1).tool == "python3"


def test_model_dir_is_where_the_package_comes_from(phase_1: Sandbox) -> None:
    phase_1.variables |= {"MODEL_DIR": phase_1.folder("other project"), "PYTHONPATH": "/more"}
    phase_1.folder("other project/models/bert_large")
    call = phase_1.succeed(PHASE_1)
    assert call.environment["PYTHONPATH"] == f"{phase_1.variables['MODEL_DIR']}/models:/more"


def test_train_script_replaces_the_package(phase_1: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher gives it the settings as options."""
    phase_1.variables |= {"TRAIN_SCRIPT": phase_1.file("my trainer.py"), "BATCH_SIZE": "8", "BENCHMARK": "1"}
    call = phase_1.succeed(PHASE_1, "--seed", "7")
    assert call.arguments[:5] == [*LAUNCH, phase_1.variables["TRAIN_SCRIPT"], "pretrain", "--phase"]
    for name, value in call.environment.items():
        monkeypatch.setenv(name, value)
    words = expand_environment(call.arguments[2:])
    assert "--from-environment" not in words and words[-2:] == ["--seed", "7"]
    assert {"--global-batch-size=8", "--benchmark", f"--output-dir={phase_1.variables['OUTPUT_DIR']}"} <= set(words)


def test_variables_of_ranks_reach_the_launcher(phase_1: Sandbox) -> None:
    variables = {"RANKS_PER_NODE": "4", "NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "node-0", "BIND": "none",
                 "MASTER_PORT": "29511", "HOSTFILE": phase_1.file("the hosts"), "DDP": "true"}  # fmt: skip
    alone = phase_1.succeed(PHASE_1)
    assert "OMP_NUM_THREADS" not in alone.environment
    phase_1.variables |= variables
    call = phase_1.succeed(PHASE_1)
    assert call.arguments == alone.arguments
    assert variables.items() <= call.environment.items()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"NNODES": "2", "NODE_RANK": "0"}, "NNODES is 2, but MASTER_ADDR"),
        ({"RANKS_PER_NODE": "100000"}, "RANKS_PER_NODE"),
        ({"MAX_RESTARTS": "x"}, "MAX_RESTARTS is 'x'"),
    ],
)
def test_the_launcher_refuses_before_pytorch_is_loaded(
    phase_1: Sandbox, variables: dict[str, str], message: str
) -> None:
    """Its error is one line, with its exit code, and nothing is trained."""
    phase_1.fake(
        "python3",
        "if sys.argv[1] == '-c': sys.exit()\n"
        f"sys.path.insert(0, {str(PROJECT / 'models')!r})\n"
        "sys.modules['torch'] = None\n"
        "from bert_large.distributed.launch import main\n"
        "sys.argv[1:] = sys.argv[3:]\n"
        "sys.exit(main())\n",
    )
    phase_1.variables |= variables
    result = phase_1.run(PHASE_1)
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert f"bert-large: error: {message}" in result.stderr


def test_fine_tuning_is_one_command(finetune: Sandbox) -> None:
    finetune.variables |= {"DATASET_DIR": finetune.folder("glue data"), "batch_size": "16", "RESUME": "Never"}
    call = finetune.succeed(FINETUNE, "--do-lower-case")
    assert call.arguments == ["-m", "bert_large", "finetune", "--from-environment", "--do-lower-case"]
    assert call.environment["DNNL_MAX_CPU_ISA"] == "AVX512_CORE_AMX"
    parsed = call.parse()
    assert (parsed.task, str(parsed.data_dir), parsed.batch_size, parsed.resume, parsed.do_lower_case) == (
        "sst2", finetune.variables["DATASET_DIR"], 16, "never", True,
    )  # fmt: skip
    assert str(parsed.checkpoint_dir) == finetune.variables["CHECKPOINT_DIR"]
