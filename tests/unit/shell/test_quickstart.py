"""The quickstart scripts start one command, which reads the variables, or nothing when a variable is wrong."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from bert_large.cli import expand_environment
from bert_large.config.presets import CONFIGURATIONS

from .sandbox import PROJECT, Call, Sandbox, wait_for

PHASE_1 = "quickstart/run_bert_pretrain_phase1.sh"
PHASE_2 = "quickstart/run_bert_pretrain_phase2.sh"
FINETUNE = "quickstart/run_finetune.sh"
PREPARE = "quickstart/prepare_dataset.sh"
LAUNCH = ["-m", "bert_large.distributed.launch"]


def started(sandbox: Sandbox, script: str, *arguments: str) -> Call:
    """Run a script that must succeed and return the command it became."""
    result = sandbox.run(script, *arguments)
    assert result.returncode == 0, result.stderr
    return sandbox.calls("python3")[-1]


def refused(sandbox: Sandbox, script: str) -> str:
    """Run a script that must refuse before it starts anything and return its one line of error."""
    result = sandbox.run(script)
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stdout == ""
    assert sandbox.calls("python3") == []
    assert not (sandbox.directory / "out put").exists()
    return result.stderr


def test_phase_1_is_one_command(phase_1: Sandbox) -> None:
    call = started(phase_1, PHASE_1)
    assert call.arguments == [*LAUNCH, "-m", "bert_large", "pretrain", "--phase", "1", "--from-environment"]
    parsed = call.parse()
    assert parsed.precision == "bf16"
    assert {name: str(getattr(parsed, name.lower())) for name in ("OUTPUT_DIR", "DATASET_DIR", "CONFIG_FILE")} == {
        name: phase_1.variables[name] for name in ("OUTPUT_DIR", "DATASET_DIR", "CONFIG_FILE")
    }
    assert Path(phase_1.variables["OUTPUT_DIR"]).is_dir()


def test_phase_2_starts_from_the_checkpoint(phase_2: Sandbox) -> None:
    parsed = started(phase_2, PHASE_2).parse()
    assert (parsed.phase, str(parsed.checkpoint_dir)) == (2, phase_2.variables["CHECKPOINT_DIR"])
    assert parsed.config_file is None


def test_every_variable_reaches_its_setting(phase_1: Sandbox) -> None:
    """Also those with names of Intel's package."""
    values = {"MICRO_BATCH_TOKENS": "4096", "MAX_STEPS": "13700", "TOTAL_STEPS": "14063", "MAX_SAMPLES": "4500000",
              "TARGET_ACCURACY": "0.72", "LEARNING_RATE": "3.5e-4", "WARMUP_STEPS": "100", "RECIPE": "demo",
              "ENGINE": "Native", "BACKEND": "gloo", "SEED": "7", "SAVE_EVERY": "500", "STOP_DEADLINE": "20",
              "RESUME": "never", "EVAL_DIR": "none", "MLPERF_LOG": "/runs/result 0.txt", "MLPERF_STATUS": "onprem",
              "MLPERF_SUBMITTER": "An Organisation", "MLPERF_DIVISION": "open", "BAD_RECORDS": "skip",
              "MAX_BAD_RECORDS": "9", "RANK_SILENCE": "30", "RANK_TIMEOUT": "60", "WEIGHT_DECAY": "0.5",
              "BENCHMARK": "0", "DYNAMIC_MASKING": "1", "MASKED_LM_ONLY": "True", "batch_size": "448"}  # fmt: skip
    phase_1.variables |= values
    parsed = vars(started(phase_1, PHASE_1).parse())
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
    error = refused(phase_1, script)
    assert "DATASET_DIR" in error and "TEXT_DIR" in error
    del phase_1.variables["DATASET_DIR"]
    parsed = started(phase_1, script).parse()
    assert (str(parsed.text_dir), parsed.dataset_dir) == (phase_1.variables["TEXT_DIR"], None)


def test_names_of_configurations(phase_1: Sandbox) -> None:
    """They are not paths, and are listed where a file is missing."""
    phase_1.variables["CONFIG_FILE"] = "bert"
    assert " ".join(CONFIGURATIONS) in refused(phase_1, PHASE_1)
    for name in CONFIGURATIONS:
        phase_1.variables["CONFIG_FILE"] = name
        assert started(phase_1, PHASE_1).parse().config_file == name


def test_arguments_are_passed_on_last(phase_1: Sandbox) -> None:
    call = started(phase_1, PHASE_1, "--no-shuffle", "--seed", "a b", "")
    assert call.arguments[-4:] == ["--no-shuffle", "--seed", "a b", ""]
    phase_1.variables["SEED"] = "7"
    assert started(phase_1, PHASE_1, "--seed", "8").parse().seed == 8


@pytest.mark.parametrize(("alias", "name"), [("BERT_MODEL_CONFIG", "CONFIG_FILE"), ("batch_size", "BATCH_SIZE")])
def test_aliases_of_phase_1(phase_1: Sandbox, alias: str, name: str) -> None:
    value = phase_1.variables.pop(name, "56")
    phase_1.variables[alias] = value
    assert started(phase_1, PHASE_1).environment[name] == value


def test_alias_of_phase_2(phase_2: Sandbox) -> None:
    phase_2.variables["PRETRAINED_MODEL"] = phase_2.variables.pop("CHECKPOINT_DIR")
    assert str(started(phase_2, PHASE_2).parse().checkpoint_dir) == phase_2.variables["PRETRAINED_MODEL"]


def test_the_name_used_here_wins_over_its_alias(phase_1: Sandbox) -> None:
    phase_1.variables |= {"BATCH_SIZE": "448", "batch_size": "224"}
    assert started(phase_1, PHASE_1).parse().global_batch_size == 448


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
    error = refused(phase_1, PHASE_1)
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
    started(phase_1, PHASE_1)


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
    assert started(phase_1, str(link)).arguments[:2] == LAUNCH


@pytest.mark.parametrize(
    ("precision", "instructions"),
    [("fp32", "AVX512_CORE_AMX"), ("bf16", "AVX512_CORE_AMX"), ("bf32", "AVX512_CORE_AMX"),
     ("fp16", "AVX512_CORE_AMX_FP16")],
)  # fmt: skip
def test_precision_lets_onednn_use_amx(phase_1: Sandbox, precision: str, instructions: str) -> None:
    phase_1.variables |= {"PRECISION": precision, "DNNL_MAX_CPU_ISA": "SSE41"}
    for phase_1.variables["PRECISION"] in (precision, precision.upper()):
        call = started(phase_1, PHASE_1)
        assert call.parse().precision == precision
        assert call.environment["DNNL_MAX_CPU_ISA"] == instructions


def test_avx_fp32_unsets_the_instruction_set(phase_1: Sandbox) -> None:
    phase_1.variables |= {"PRECISION": "avx-fp32", "DNNL_MAX_CPU_ISA": "AVX512_CORE_AMX"}
    call = started(phase_1, PHASE_1)
    assert call.parse().precision == "avx-fp32"
    assert "DNNL_MAX_CPU_ISA" not in call.environment


@pytest.mark.parametrize("variable", ["PRECISION", "OUTPUT_DIR", "DATASET_DIR", "CONFIG_FILE"])
def test_phase_1_names_what_is_missing(phase_1: Sandbox, variable: str) -> None:
    phase_1.variables[variable] = ""
    error = refused(phase_1, PHASE_1)
    assert variable in error
    assert error.startswith("run_bert_pretrain_phase1.sh: error: ")


def test_phase_2_names_what_is_missing(phase_2: Sandbox) -> None:
    del phase_2.variables["CHECKPOINT_DIR"]
    assert "CHECKPOINT_DIR" in refused(phase_2, PHASE_2)


def test_everything_missing_or_wrong_is_one_line(sandbox: Sandbox) -> None:
    sandbox.variables |= {"BENCHMARK": "maybe", "EVAL_DIR": "/not/there", "MAX_STEP": "2"}
    error = refused(sandbox, PHASE_1)
    for name in (
        "PRECISION OUTPUT_DIR DATASET_DIR CONFIG_FILE",
        "BENCHMARK=maybe",
        "EVAL_DIR=/not/there",
        "MAX_STEPS?",
    ):
        assert name in error
    sandbox.variables = {}
    assert "INPUT_DIR DATASET_DIR" in refused(sandbox, PREPARE)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PRECISION", "fp8"),
        ("DATASET_DIR", "/not/there"),
        ("DATASET_DIR", "/dev/null"),
        ("TEXT_DIR", "/not/there"),
        ("CONFIG_FILE", "/not/there.json"),
        ("CONFIG_FILE", "/"),
        ("BERT_MODEL_CONFIG", "/not/there.json"),
        ("CHECKPOINT_DIR", "/not/there"),
        ("EVAL_DIR", "/not/there"),
        ("VOCAB_FILE", "/not/there"),
        ("TRAIN_SCRIPT", "/not/there.py"),
        ("HOSTFILE", "/not/there"),
        ("MODEL_DIR", "/dev"),
        ("RESUME", "/not/there"),
        ("OUTPUT_DIR", "/dev/null/output"),
        ("BENCHMARK", "perhaps"),
        ("DYNAMIC_MASKING", "2"),
        ("ENGINE", "eager native"),
        ("MLPERF_DIVISION", "ajar"),
        ("ALLOCATOR", "hoard"),
        ("OPENMP", "gnu"),
        ("DDP", "maybe"),
        ("RANKS_PER_NODE", "two"),
        ("NNODES", "0"),
        ("PYTHON", "/not/there/python"),
    ],
)
def test_a_wrong_value_is_named(phase_1: Sandbox, variable: str, value: str) -> None:
    if variable == "TEXT_DIR":
        del phase_1.variables["DATASET_DIR"]
    if variable == "BERT_MODEL_CONFIG":
        del phase_1.variables["CONFIG_FILE"]
        name = "CONFIG_FILE"
    else:
        name = variable
    phase_1.variables[variable] = value
    result = phase_1.run(PHASE_1)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert f"error: {name}={value} " in result.stderr
    assert phase_1.calls("python3") == []


def test_an_environment_without_the_package_is_named(phase_1: Sandbox) -> None:
    phase_1.fake("python3", "os.execv(sys.executable, [sys.executable, '-S', *sys.argv[1:]])")  # without site-packages
    result = phase_1.run(PHASE_1)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "make setup" in result.stderr
    assert len(phase_1.calls("python3")) == 1


def test_the_exit_code_is_the_trainers(phase_1: Sandbox) -> None:
    phase_1.fake("python3", "sys.exit(0 if sys.argv[1] == '-c' else 41)")
    assert phase_1.run(PHASE_1).returncode == 41


def test_signals_reach_the_trainer(phase_1: Sandbox) -> None:
    ready = phase_1.fake_that_waits("python3", exit_code=43)
    process = phase_1.start(PHASE_1)
    wait_for(ready)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 43


def test_the_projects_environment_is_preferred(phase_1: Sandbox) -> None:
    environment = phase_1.project / ".venv/bin"
    environment.mkdir(parents=True)
    phase_1.fake("python", directory=environment)
    assert phase_1.run(PHASE_1).returncode == 0
    assert phase_1.calls("python3") == []
    assert phase_1.calls("python")[-1].arguments[:2] == LAUNCH
    phase_1.variables["PYTHON"] = str(phase_1.bin / "python3")
    assert started(phase_1, PHASE_1).arguments[:2] == LAUNCH


def test_model_dir_is_where_the_package_comes_from(phase_1: Sandbox) -> None:
    phase_1.variables |= {"MODEL_DIR": phase_1.folder("other project"), "PYTHONPATH": "/more"}
    phase_1.folder("other project/models/bert_large")
    call = started(phase_1, PHASE_1)
    assert call.environment["PYTHONPATH"] == f"{phase_1.variables['MODEL_DIR']}/models:/more"


def test_train_script_replaces_the_package(phase_1: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher gives it the settings as options."""
    phase_1.variables |= {"TRAIN_SCRIPT": phase_1.file("my trainer.py"), "BATCH_SIZE": "8", "BENCHMARK": "1"}
    call = started(phase_1, PHASE_1, "--seed", "7")
    assert call.arguments[:5] == [*LAUNCH, phase_1.variables["TRAIN_SCRIPT"], "pretrain", "--phase"]
    for name, value in call.environment.items():
        monkeypatch.setenv(name, value)
    words = expand_environment(call.arguments[2:])
    assert "--from-environment" not in words and words[-2:] == ["--seed", "7"]
    assert {"--global-batch-size=8", "--benchmark", f"--output-dir={phase_1.variables['OUTPUT_DIR']}"} <= set(words)


def install(sandbox: Sandbox, *libraries: str) -> None:
    """Let the linker know of these libraries, and of no other."""
    names = ("libc.so.6", "libjemalloc.so.1", *libraries)
    listed = "\n".join(["99 libs found", *(f"\t{name} (libc6,x86-64) => /lib/{name}" for name in names)])
    sandbox.fake("ldconfig", f"print({listed!r})")


@pytest.mark.parametrize(
    ("choice", "installed", "preloaded"),
    [
        ("auto", ("libjemalloc.so.2", "libtcmalloc.so.4", "libtcmalloc_minimal.so.4"), "/lib/libtcmalloc_minimal.so.4"),
        ("auto", ("libtcmalloc.so.4",), "/lib/libtcmalloc.so.4"),
        ("auto", ("libjemalloc.so.2",), None),
        ("auto", (), None),
        ("jemalloc", ("libjemalloc.so.2", "libtcmalloc.so.4"), "/lib/libjemalloc.so.2"),
        ("tcmalloc", ("libjemalloc.so.2", "libtcmalloc.so.4"), "/lib/libtcmalloc.so.4"),
        ("system", ("libjemalloc.so.2", "libtcmalloc.so.4"), None),
    ],
)
def test_the_allocator(phase_1: Sandbox, choice: str, installed: tuple[str, ...], preloaded: str | None) -> None:
    install(phase_1, *installed)
    phase_1.variables["ALLOCATOR"] = choice
    environment = started(phase_1, PHASE_1).environment
    assert environment.get("LD_PRELOAD") == preloaded
    assert environment.get("TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD") == ("0" if "tcm" in str(preloaded) else None)
    assert ("dirty_decay_ms:9000000000" in environment.get("MALLOC_CONF", "")) == ("jemalloc" in str(preloaded))
    assert environment.get("GLIBC_TUNABLES") == ("glibc.malloc.hugetlb=1" if preloaded is None else None)


def test_settings_of_allocators_are_kept(phase_1: Sandbox) -> None:
    install(phase_1, "libjemalloc.so.2")
    own = {"MALLOC_CONF": "narenas:1", "LD_PRELOAD": "/no/libiomp5.so"}
    phase_1.variables |= own | {"ALLOCATOR": "jemalloc"}
    environment = started(phase_1, PHASE_1).environment
    assert environment["MALLOC_CONF"] == own["MALLOC_CONF"]
    assert environment["LD_PRELOAD"] == f"/lib/libjemalloc.so.2:{own['LD_PRELOAD']}"
    phase_1.variables |= {"ALLOCATOR": "system", "GLIBC_TUNABLES": "glibc.malloc.arena_max=1"}
    tunables = started(phase_1, PHASE_1).environment["GLIBC_TUNABLES"]
    assert tunables == "glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1"
    phase_1.variables["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=0"
    assert started(phase_1, PHASE_1).environment["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=0"


def test_an_allocator_that_is_preloaded_already_stays(phase_1: Sandbox) -> None:
    install(phase_1, "libtcmalloc.so.4")
    phase_1.variables["LD_PRELOAD"] = "/no/libjemalloc.so"
    environment = started(phase_1, PHASE_1).environment
    assert environment["LD_PRELOAD"] == "/no/libjemalloc.so"
    assert not {"MALLOC_CONF", "GLIBC_TUNABLES"} & set(environment)


@pytest.mark.parametrize("choice", ["tcmalloc", "jemalloc"])
def test_an_allocator_that_is_not_installed_is_named(phase_1: Sandbox, choice: str) -> None:
    install(phase_1)
    phase_1.variables["ALLOCATOR"] = choice
    result = phase_1.run(PHASE_1)
    assert (result.returncode, phase_1.calls("python3")) == (2, [])
    assert f"error: ALLOCATOR={choice} is not installed here" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def use_environment(sandbox: Sandbox, *libraries: str) -> Path:
    """Let the fake python answer with the root of an environment that has these libraries; return their folder."""
    folder = Path(sandbox.folder("environment/lib"))
    for name in libraries:
        (folder / name).touch()
    sandbox.fake("python3", f"'sys.prefix' in sys.argv[-1] and print({str(folder.parent)!r})")
    return folder


def test_intel_openmp_is_loaded_first_if_asked_for(phase_1: Sandbox) -> None:
    folder = use_environment(phase_1, "libiomp5.so")
    phase_1.variables |= {"ALLOCATOR": "system", "LD_PRELOAD": "/no/libmine.so"}
    assert started(phase_1, PHASE_1).environment["LD_PRELOAD"] == "/no/libmine.so"
    phase_1.variables["OPENMP"] = "intel"
    assert started(phase_1, PHASE_1).environment["LD_PRELOAD"] == f"{folder}/libiomp5.so:/no/libmine.so"


def test_intel_openmp_that_is_not_there_is_named(phase_1: Sandbox) -> None:
    folder = use_environment(phase_1)
    phase_1.variables["OPENMP"] = "intel"
    result = phase_1.run(PHASE_1)
    assert result.returncode == 2
    assert f"error: OPENMP=intel, but {folder}/libiomp5.so is not there" in result.stderr
    assert "intel-openmp" in result.stderr


def test_variables_of_ranks_reach_the_launcher(phase_1: Sandbox) -> None:
    variables = {
        "RANKS_PER_NODE": "4",
        "NNODES": "2",
        "NODE_RANK": "1",
        "MASTER_ADDR": "node-0",
        "MASTER_PORT": "29511",
        "HOSTFILE": phase_1.file("the hosts"),
        "BIND": "none",
        "DDP": "true",
    }
    alone = started(phase_1, PHASE_1)
    assert "OMP_NUM_THREADS" not in alone.environment
    phase_1.variables |= variables
    call = started(phase_1, PHASE_1)
    assert call.arguments == alone.arguments
    assert variables.items() <= call.environment.items()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"NNODES": "2", "NODE_RANK": "0"}, "NNODES is 2, but MASTER_ADDR"),
        (
            {"RANKS_PER_NODE": "100000"},
            "RANKS_PER_NODE",
        ),
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


def test_prepare_goes_from_text_to_records(sandbox: Sandbox) -> None:
    sandbox.variables |= {
        "INPUT_DIR": sandbox.folder("some text"),
        "VOCAB_FILE": sandbox.file("vo cab.txt"),
        "DATASET_DIR": str(sandbox.directory / "data set"),
        "INPUT_FORMAT": "articles",
        "TEXT_LANGUAGE": "de",
        "SHARDS": "7",
        "PHASE1_FRACTION": "0.8",
        "EVAL_ARTICLES": "50",
        "EVAL_RECORDS": "99",
        "DUPE_FACTOR": "3",
        "RANDOM_SEED": "5",
        "WORKERS": "2",
    }
    dataset = sandbox.variables["DATASET_DIR"]
    sandbox.folder("data set/corpus/eval")  # as the command leaves it
    result = sandbox.run(PREPARE, "--more")
    assert result.returncode == 0, result.stderr
    _, *calls = sandbox.calls("python3")
    common = ["--vocab-file", sandbox.variables["VOCAB_FILE"], "--max-seq-length"]
    long = [*common, "512", "--max-predictions-per-seq", "76", "--more"]
    environment = "--from-environment"
    assert [call.arguments[2:] for call in calls] == [
        ["corpus", environment, "--output-dir", f"{dataset}/corpus"],
        ["prepare", environment, "--input-dir", f"{dataset}/corpus/phase1", "--output-dir", f"{dataset}/seq_128",
         *common, "128", "--max-predictions-per-seq", "20", "--output-suffix", "_128", "--more"],
        ["prepare", environment, "--input-dir", f"{dataset}/corpus/phase2", "--output-dir", f"{dataset}/seq_512",
         *long],
        ["prepare", environment, "--input-dir", f"{dataset}/corpus/eval", "--output-dir", f"{dataset}/eval_all", *long],
        ["pick", environment, "--input-dir", f"{dataset}/eval_all", "--output-file", f"{dataset}/eval/eval_records",
         "--allow-fewer", "--overwrite"],
    ]  # fmt: skip
    corpus, prepare, pick = calls[0].parse(), calls[1].parse(drop="--more"), calls[-1].parse()
    assert (str(corpus.input_dir), corpus.input_format, corpus.language, corpus.shards) == (
        sandbox.variables["INPUT_DIR"], "articles", "de", 7,
    )  # fmt: skip
    assert (corpus.phase1_fraction, corpus.eval_articles, pick.count) == (0.8, 50, 99)
    assert (prepare.dupe_factor, prepare.random_seed, prepare.workers) == (3, 5, 2)
    assert str(prepare.input_dir) == f"{dataset}/corpus/phase1"  # not INPUT_DIR
    assert (Path(dataset) / "vocab.txt").is_file()


def test_prepare_trains_a_vocabulary_if_none_is_given(preparing: Sandbox) -> None:
    del preparing.variables["VOCAB_FILE"]
    preparing.variables["VOCAB_SIZE"] = "1000"
    dataset = preparing.variables["DATASET_DIR"]
    preparing.folder("out put/corpus/both")
    vocab = ["vocab", "--from-environment", "--input-dir", f"{dataset}/corpus/both", "--output-file",
             f"{dataset}/vocab.txt", "--no-do-lower-case"]  # fmt: skip
    preparing.run(PREPARE, "--no-do-lower-case")
    _, corpus, *others = preparing.calls("python3")
    assert corpus.arguments[2] == "corpus" and "--no-do-lower-case" not in corpus.arguments
    assert [call.arguments[2] for call in others] == ["vocab", "prepare", "prepare"]
    assert others[0].arguments[2:] == vocab and others[0].parse().vocab_size == 1000
    for call in others[1:]:
        assert call.value("--vocab-file") == f"{dataset}/vocab.txt"
        assert call.value("--input-dir") == f"{dataset}/corpus/both"
        assert "--no-do-lower-case" in call.arguments
    preparing.file("out put/vocab.txt")
    started = len(preparing.calls("python3"))
    assert preparing.run(PREPARE).returncode == 0
    assert [call.arguments[2] for call in preparing.calls("python3")[started + 1 :]] == ["corpus", "prepare", "prepare"]
    started = len(preparing.calls("python3"))
    assert preparing.run(PREPARE, "--overwrite").returncode == 0
    calls = preparing.calls("python3")[started + 1 :]
    assert [call.arguments[2] for call in calls] == ["corpus", "vocab", "prepare", "prepare"]
    assert all("--overwrite" in call.arguments for call in calls)


@pytest.fixture
def preparing(sandbox: Sandbox) -> Sandbox:
    """The sandbox with what prepare_dataset.sh requires."""
    sandbox.variables |= {
        "INPUT_DIR": sandbox.folder("text"),
        "VOCAB_FILE": sandbox.file("vocab.txt"),
        "DATASET_DIR": str(sandbox.directory / "out put"),
    }
    return sandbox


def test_prepare_stops_at_the_first_failure(preparing: Sandbox) -> None:
    preparing.fake("python3", "sys.exit(0 if sys.argv[1] == '-c' else 44)")
    assert preparing.run(PREPARE).returncode == 44
    assert len(preparing.calls("python3")) == 2


def test_prepare_ends_with_its_command_on_a_signal(preparing: Sandbox) -> None:
    ready = preparing.fake_that_waits("python3", exit_code=45)
    process = preparing.start(PREPARE)
    wait_for(ready)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 45
    assert len(preparing.calls("python3")) == 2


def test_prepare_names_a_missing_input(preparing: Sandbox) -> None:
    preparing.variables["INPUT_DIR"] = "/not/there"
    assert "INPUT_DIR=/not/there" in refused(preparing, PREPARE)


def test_fine_tuning_is_one_command(finetune: Sandbox) -> None:
    finetune.variables |= {"DATASET_DIR": finetune.folder("glue data"), "batch_size": "16", "RESUME": "Never"}
    call = started(finetune, FINETUNE, "--do-lower-case")
    assert call.arguments == ["-m", "bert_large", "finetune", "--from-environment", "--do-lower-case"]
    assert call.environment["DNNL_MAX_CPU_ISA"] == "AVX512_CORE_AMX"
    parsed = call.parse()
    assert (parsed.task, str(parsed.data_dir), parsed.batch_size, parsed.resume, parsed.do_lower_case) == (
        "sst2", finetune.variables["DATASET_DIR"], 16, "never", True,
    )  # fmt: skip
    assert str(parsed.checkpoint_dir) == finetune.variables["CHECKPOINT_DIR"]
