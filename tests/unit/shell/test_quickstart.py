"""The quickstart scripts: variables in, one command out, nothing started when a variable is wrong."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
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
    assert call.arguments == [
        *LAUNCH, "-m", "bert_large", "pretrain", "--phase", "1",
        "--precision", "bf16",
        "--output-dir", phase_1.variables["OUTPUT_DIR"],
        "--dataset-dir", phase_1.variables["DATASET_DIR"],
        "--config-file", phase_1.variables["CONFIG_FILE"],
    ]  # fmt: skip
    assert Path(phase_1.variables["OUTPUT_DIR"]).is_dir()


def test_phase_2_starts_from_the_checkpoint(phase_2: Sandbox) -> None:
    call = started(phase_2, PHASE_2)
    assert call.arguments[:7] == [*LAUNCH, "-m", "bert_large", "pretrain", "--phase", "2"]
    assert call.value("--checkpoint-dir") == phase_2.variables["CHECKPOINT_DIR"]
    assert "--config-file" not in call.arguments


@pytest.mark.parametrize(
    ("variable", "option", "value"),
    [
        ("BATCH_SIZE", "--global-batch-size", "448"),
        ("MICRO_BATCH_TOKENS", "--micro-batch-tokens", "4096"),
        ("MAX_STEPS", "--max-steps", "13700"),
        ("TOTAL_STEPS", "--total-steps", "14063"),
        ("MAX_SAMPLES", "--max-samples", "4500000"),
        ("TARGET_ACCURACY", "--target-accuracy", "0.72"),
        ("LEARNING_RATE", "--learning-rate", "3.5e-4"),
        ("WARMUP_STEPS", "--warmup-steps", "100"),
        ("RECIPE", "--recipe", "mlperf-256"),
        ("ENGINE", "--engine", "native"),
        ("BACKEND", "--backend", "gloo"),
        ("SEED", "--seed", "7"),
        ("SAVE_EVERY", "--save-every", "500"),
        ("STOP_DEADLINE", "--stop-deadline", "20"),
        ("RESUME", "--resume", "never"),
        ("EVAL_DIR", "--eval-dir", "none"),
        ("MLPERF_LOG", "--mlperf-log", "/runs/result 0.txt"),
        ("MLPERF_SUBMITTER", "--mlperf-submitter", "An Organisation"),
        ("MLPERF_PLATFORM", "--mlperf-platform", "two sockets"),
        ("MLPERF_DIVISION", "--mlperf-division", "open"),
        ("MLPERF_STATUS", "--mlperf-status", "onprem"),
    ],
)
def test_optional_variables_become_options(phase_1: Sandbox, variable: str, option: str, value: str) -> None:
    assert option not in started(phase_1, PHASE_1).arguments
    phase_1.variables[variable] = value
    assert started(phase_1, PHASE_1).value(option) == value


def test_optional_paths_become_options(phase_1: Sandbox) -> None:
    paths = {
        "--vocab-file": phase_1.file("vo cab.txt"),
        "--eval-dir": phase_1.folder("eval data"),
        "--checkpoint-dir": phase_1.folder("a model"),
        "--resume": phase_1.folder("check points/step-5"),
    }
    phase_1.variables |= {option[2:].replace("-", "_").upper(): path for option, path in paths.items()}
    call = started(phase_1, PHASE_1)
    assert {option: call.value(option) for option in paths} == paths


@pytest.mark.parametrize("flag", ["--benchmark", "--dynamic-masking", "--masked-lm-only"])
def test_flags(phase_1: Sandbox, flag: str) -> None:
    variable = flag[2:].replace("-", "_").upper()
    phase_1.variables[variable] = "0"
    assert flag not in started(phase_1, PHASE_1).arguments
    phase_1.variables[variable] = "1"
    assert flag in started(phase_1, PHASE_1).arguments


@pytest.mark.parametrize("script", [PHASE_1, PHASE_2])
def test_text_in_place_of_records(phase_1: Sandbox, script: str) -> None:
    phase_1.variables |= {"TEXT_DIR": phase_1.folder("some text"), "CHECKPOINT_DIR": phase_1.folder("model_save")}
    assert "error: DATASET_DIR and TEXT_DIR are both set" in refused(phase_1, script)
    del phase_1.variables["DATASET_DIR"]
    call = started(phase_1, script)
    assert call.value("--text-dir") == phase_1.variables["TEXT_DIR"]
    assert "--dataset-dir" not in call.arguments


def test_the_names_of_configurations(phase_1: Sandbox) -> None:
    """The scripts know all of the package's, take them for no path, and list them where a file is missing."""
    phase_1.variables["CONFIG_FILE"] = "bert"
    assert f"CONFIG_FILE=bert is not a file, nor one of {' '.join(CONFIGURATIONS)}\n" in refused(phase_1, PHASE_1)
    for name in CONFIGURATIONS:
        phase_1.variables["CONFIG_FILE"] = name
        assert started(phase_1, PHASE_1).value("--config-file") == name
    head = Path(PROJECT, PHASE_1).read_text()
    assert all(re.search(rf"\b{name}\b", head) for name in CONFIGURATIONS)


def test_arguments_are_passed_on_last(phase_1: Sandbox) -> None:
    call = started(phase_1, PHASE_1, "--no-shuffle", "--seed", "a b", "")
    assert call.arguments[-4:] == ["--no-shuffle", "--seed", "a b", ""]


@pytest.mark.parametrize(
    ("alias", "name", "option"),
    [("BERT_MODEL_CONFIG", "CONFIG_FILE", "--config-file"), ("batch_size", "BATCH_SIZE", "--global-batch-size")],
)
def test_aliases_of_phase_1(phase_1: Sandbox, alias: str, name: str, option: str) -> None:
    value = phase_1.variables.pop(name, "56")
    phase_1.variables[alias] = value
    assert started(phase_1, PHASE_1).value(option) == value


def test_alias_of_phase_2(phase_2: Sandbox) -> None:
    phase_2.variables["PRETRAINED_MODEL"] = phase_2.variables.pop("CHECKPOINT_DIR")
    assert started(phase_2, PHASE_2).value("--checkpoint-dir") == phase_2.variables["PRETRAINED_MODEL"]


def test_the_name_used_here_wins_over_its_alias(phase_1: Sandbox) -> None:
    phase_1.variables |= {"BATCH_SIZE": "448", "batch_size": "224"}
    assert started(phase_1, PHASE_1).value("--global-batch-size") == "448"


@pytest.mark.parametrize(
    ("precision", "instructions"),
    [("fp32", "AVX512_CORE_AMX"), ("bf16", "AVX512_CORE_AMX"), ("bf32", "AVX512_CORE_AMX"),
     ("fp16", "AVX512_CORE_AMX_FP16")],
)  # fmt: skip
def test_precision_lets_onednn_use_amx(phase_1: Sandbox, precision: str, instructions: str) -> None:
    phase_1.variables |= {"PRECISION": precision, "DNNL_MAX_CPU_ISA": "SSE41"}
    call = started(phase_1, PHASE_1)
    assert call.value("--precision") == precision
    assert call.environment["DNNL_MAX_CPU_ISA"] == instructions


def test_avx_fp32_unsets_the_instruction_set(phase_1: Sandbox) -> None:
    phase_1.variables |= {"PRECISION": "avx-fp32", "DNNL_MAX_CPU_ISA": "AVX512_CORE_AMX"}
    call = started(phase_1, PHASE_1)
    assert call.value("--precision") == "avx-fp32"
    assert "DNNL_MAX_CPU_ISA" not in call.environment


@pytest.mark.parametrize("variable", ["PRECISION", "OUTPUT_DIR", "DATASET_DIR", "CONFIG_FILE"])
def test_phase_1_names_what_is_missing(phase_1: Sandbox, variable: str) -> None:
    phase_1.variables[variable] = ""
    error = refused(phase_1, PHASE_1)
    assert f"needs {variable}:" in error
    assert error.startswith("run_bert_pretrain_phase1.sh: error: ")


def test_phase_2_names_what_is_missing(phase_2: Sandbox) -> None:
    del phase_2.variables["CHECKPOINT_DIR"]
    assert "needs CHECKPOINT_DIR:" in refused(phase_2, PHASE_2)


def test_everything_missing_is_one_line(sandbox: Sandbox) -> None:
    assert "needs PRECISION OUTPUT_DIR DATASET_DIR CONFIG_FILE:" in refused(sandbox, PHASE_1)
    assert "needs INPUT_DIR DATASET_DIR:" in refused(sandbox, PREPARE)


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
        ("BENCHMARK", "yes"),
        ("DYNAMIC_MASKING", "yes"),
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


def test_train_script_replaces_the_package(phase_1: Sandbox) -> None:
    phase_1.variables["TRAIN_SCRIPT"] = phase_1.file("my trainer.py")
    call = started(phase_1, PHASE_1)
    assert call.arguments[:6] == [*LAUNCH, phase_1.variables["TRAIN_SCRIPT"], "pretrain", "--phase", "1"]


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


def test_the_launcher_is_told_of_ranks_and_machines(phase_1: Sandbox) -> None:
    """By the variables themselves: how many ranks start, and with how many threads, is for it to say."""
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
        ({"BIND": "yes"}, "BIND is 'yes', expected auto or none"),
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
    common = [
        "--vocab-file", sandbox.variables["VOCAB_FILE"],
        "--dupe-factor", "3", "--random-seed", "5", "--workers", "2",
    ]  # fmt: skip
    long = ["--max-seq-length", "512", "--max-predictions-per-seq", "76", "--more"]
    assert [call.arguments[2:] for call in calls] == [
        ["corpus", "--input-dir", sandbox.variables["INPUT_DIR"], "--input-format", "articles", "--language", "de",
         "--shards", "7", "--phase1-fraction", "0.8", "--eval-articles", "50", "--output-dir", f"{dataset}/corpus"],
        ["prepare", "--input-dir", f"{dataset}/corpus/phase1", "--output-dir", f"{dataset}/seq_128", *common,
         "--max-seq-length", "128", "--max-predictions-per-seq", "20", "--output-suffix", "_128", "--more"],
        ["prepare", "--input-dir", f"{dataset}/corpus/phase2", "--output-dir", f"{dataset}/seq_512", *common, *long],
        ["prepare", "--input-dir", f"{dataset}/corpus/eval", "--output-dir", f"{dataset}/eval_all", *common, *long],
        ["pick", "--input-dir", f"{dataset}/eval_all", "--output-file", f"{dataset}/eval/eval_records",
         "--allow-fewer", "--overwrite", "--count", "99"],
    ]  # fmt: skip
    assert (Path(dataset) / "vocab.txt").is_file()


def test_prepare_trains_a_vocabulary_if_none_is_given(preparing: Sandbox) -> None:
    del preparing.variables["VOCAB_FILE"]
    preparing.variables["VOCAB_SIZE"] = "1000"
    dataset = preparing.variables["DATASET_DIR"]
    preparing.folder("out put/corpus/both")
    vocab = ["vocab", "--input-dir", f"{dataset}/corpus/both", "--output-file", f"{dataset}/vocab.txt",
             "--vocab-size", "1000", "--no-do-lower-case"]  # fmt: skip
    preparing.run(PREPARE, "--no-do-lower-case")
    _, corpus, *others = preparing.calls("python3")
    assert corpus.arguments[2] == "corpus" and "--no-do-lower-case" not in corpus.arguments
    assert [call.arguments[2] for call in others] == ["vocab", "prepare", "prepare"]
    assert others[0].arguments[2:] == vocab
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
    assert "error: INPUT_DIR=/not/there is not a directory" in refused(preparing, PREPARE)


def test_fine_tuning_is_one_command(finetune: Sandbox) -> None:
    required = [
        "-m", "bert_large", "finetune", "--task", "sst2", "--checkpoint-dir", finetune.variables["CHECKPOINT_DIR"],
        "--output-dir", finetune.variables["OUTPUT_DIR"],
    ]  # fmt: skip
    call = started(finetune, FINETUNE)
    assert call.arguments == required
    assert call.environment["DNNL_MAX_CPU_ISA"] == "AVX512_CORE_AMX"


def test_every_variable_of_fine_tuning_becomes_an_option(finetune: Sandbox) -> None:
    finetune.variables |= {
        "DATASET_DIR": finetune.folder("glue data"), "VOCAB_FILE": finetune.file("vo cab.txt"), "PRECISION": "bf16",
        "EPOCHS": "4", "batch_size": "16", "LEARNING_RATE": "5e-5", "WARMUP_SHARE": "0.06", "WEIGHT_DECAY": "0",
        "MAX_SEQ_LENGTH": "256", "MAX_TRAIN_SAMPLES": "100", "MAX_EVAL_SAMPLES": "50", "SEEDS": "1,2",
        "SAVE_EVERY": "9", "RESUME": "never",
    }  # fmt: skip
    call = started(finetune, FINETUNE, "--do-lower-case")
    options = {
        "--data-dir": "DATASET_DIR", "--vocab-file": "VOCAB_FILE", "--precision": "PRECISION", "--epochs": "EPOCHS",
        "--batch-size": "batch_size", "--learning-rate": "LEARNING_RATE", "--warmup-share": "WARMUP_SHARE",
        "--weight-decay": "WEIGHT_DECAY", "--max-seq-length": "MAX_SEQ_LENGTH",
        "--max-train-samples": "MAX_TRAIN_SAMPLES", "--max-eval-samples": "MAX_EVAL_SAMPLES", "--seeds": "SEEDS",
        "--save-every": "SAVE_EVERY", "--resume": "RESUME",
    }  # fmt: skip
    assert {option: call.value(option) for option in options} == {
        option: finetune.variables[variable] for option, variable in options.items()
    }
    assert call.arguments[-1] == "--do-lower-case"
    del finetune.variables["SEEDS"]
    finetune.variables["SEED"] = "7"
    assert started(finetune, FINETUNE).value("--seed") == "7"


@pytest.mark.parametrize("script", [PHASE_1, PHASE_2, FINETUNE, PREPARE])
def test_the_head_lists_every_required_variable(sandbox: Sandbox, script: str) -> None:
    named = refused(sandbox, script).split(" needs ")[1].split(":")[0].split()
    head = (PROJECT / script).read_text().split("set -euo pipefail")[0]
    assert named
    for variable in named:
        assert f"\n#   {variable} " in head
