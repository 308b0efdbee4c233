"""run.sh: the flags of the container, its mounts and variables, and what it refuses."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from .sandbox import Sandbox, mount

IMAGE = "model-zoo:pytorch-bert-large-training"


def test_the_container_has_no_privilege(docker: Sandbox) -> None:
    call = docker.succeed("run.sh")
    assert not [word for word in call.arguments if "privileged" in word and word != "no-new-privileges"]
    assert call.value("--user") == f"{os.getuid()}:{os.getgid()}"
    assert call.value("--cap-drop") == "ALL"
    assert call.value("--security-opt") == "no-new-privileges"
    assert call.value("--shm-size") == "8G"
    assert "--read-only" in call.arguments
    assert call.value("--tmpfs") == "/tmp"
    assert "--init" in call.arguments
    assert call.arguments[call.arguments.index("--stop-timeout") + 1] == "300"  # a stop leaves time for a checkpoint
    assert "--rm" in call.arguments
    assert not {"--tty", "--interactive", "--network", "-t", "-i", "-it"} & set(call.arguments)


def test_several_nodes_use_the_hosts_network(docker: Sandbox) -> None:
    docker.variables |= {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "node-0"}
    call = docker.succeed("run.sh")
    assert call.value("--network") == "host"
    assert {"NNODES", "NODE_RANK", "MASTER_ADDR"} <= set(call.values("--env"))


def test_a_host_file_is_mounted_and_uses_the_hosts_network(docker: Sandbox) -> None:
    """Every machine of it is started by the same command, so the hosts' names and addresses must be those outside."""
    docker.variables["HOSTFILE"] = docker.file("the hosts")
    call = docker.succeed("run.sh")
    assert mount(docker.variables["HOSTFILE"], ",readonly") in call.values("--mount")
    assert call.value("--network") == "host"
    assert "HOSTFILE" in call.values("--env")


def test_the_script_and_its_arguments(docker: Sandbox) -> None:
    call = docker.succeed("run.sh", "--no-shuffle", "--seed", "a b")
    assert call.arguments[-5:] == [
        IMAGE, "/workspace/bert-large/quickstart/run_bert_pretrain_phase1.sh", "--no-shuffle", "--seed", "a b",
    ]  # fmt: skip
    docker.variables |= {"IMAGE_NAME": "mine:latest", "SHM_SIZE": "1G"}
    call = docker.succeed("run.sh")
    assert (call.arguments[-2], call.value("--shm-size")) == ("mine:latest", "1G")


def test_inputs_are_read_only_and_the_output_is_not(docker: Sandbox) -> None:
    docker.variables |= {
        "EVAL_DIR": docker.folder("eval data"),
        "CHECKPOINT_DIR": docker.folder("first run/model_save"),
        "VOCAB_FILE": docker.file("vo cab.txt"),
        "TRAIN_SCRIPT": docker.file("my trainer.py"),
    }
    call = docker.succeed("run.sh")
    inputs = ("DATASET_DIR", "CONFIG_FILE", "EVAL_DIR", "CHECKPOINT_DIR", "VOCAB_FILE", "TRAIN_SCRIPT")
    assert sorted(call.values("--mount")) == sorted(
        [mount(docker.variables["OUTPUT_DIR"]), *(mount(docker.variables[name], ",readonly") for name in inputs)]
    )
    assert not {"-v", "--volume"} & set(call.arguments)
    del docker.variables["DATASET_DIR"]
    docker.variables["TEXT_DIR"] = docker.folder("some text")
    assert mount(docker.variables["TEXT_DIR"], ",readonly") in docker.succeed("run.sh").values("--mount")


def test_paths_become_absolute_with_links_followed(docker: Sandbox) -> None:
    docker.folder("real/data")
    (docker.directory / "link").symlink_to("real")
    docker.variables |= {"DATASET_DIR": "link/data", "OUTPUT_DIR": "some out"}
    call = docker.succeed("run.sh")
    real, output = str(docker.directory / "real/data"), str(docker.directory / "some out")
    assert mount(real, ",readonly") in call.values("--mount")
    assert mount(output) in call.values("--mount")
    assert call.environment["DATASET_DIR"] == real
    assert call.environment["OUTPUT_DIR"] == output


@pytest.mark.parametrize("name", ["a:b", 'a,b "c"'])
def test_paths_with_the_engines_separators(docker: Sandbox, name: str) -> None:
    docker.variables["DATASET_DIR"] = docker.folder(name)
    path = str(docker.directory / name)
    quoted = path.replace('"', '""')
    expected = (
        mount(path, ",readonly") if "," not in name else f'type=bind,"source={quoted}","target={quoted}",readonly'
    )
    assert expected in docker.succeed("run.sh").values("--mount")


def test_a_path_is_mounted_once(docker: Sandbox) -> None:
    docker.variables["EVAL_DIR"] = docker.variables["DATASET_DIR"] + "/"
    mounts = docker.succeed("run.sh").values("--mount")
    assert len(mounts) == len(set(mounts)) == 3


def test_a_checkpoint_inside_the_output_is_not_mounted_again(docker: Sandbox) -> None:
    docker.variables["CHECKPOINT_DIR"] = docker.folder("out put/model_save")
    docker.variables["RESUME"] = docker.folder("out put/checkpoints/step-3")
    call = docker.succeed("run.sh")
    assert len(call.values("--mount")) == 3
    assert call.environment["CHECKPOINT_DIR"] == docker.variables["CHECKPOINT_DIR"]


@pytest.mark.parametrize(
    ("variable", "word", "mounts"), [("EVAL_DIR", "none", 3), ("RESUME", "never", 3), ("CONFIG_FILE", "bert-tiny", 2)]
)
def test_a_word_is_not_mounted(docker: Sandbox, variable: str, word: str, mounts: int) -> None:
    docker.variables[variable] = word
    call = docker.succeed("run.sh")
    assert len(call.values("--mount")) == mounts
    assert call.environment[variable] == word


def test_variables_are_passed_by_name(docker: Sandbox) -> None:
    values = {"BATCH_SIZE": "448", "MAX_STEPS": "5", "LEARNING_RATE": "1e-4", "BENCHMARK": "1", "DYNAMIC_MASKING": "1",
              "RANKS_PER_NODE": "2", "OMP_NUM_THREADS": "3", "BIND": "none", "BACKEND": "gloo", "KMP_AFFINITY": "none",
              "https_proxy": "http://proxy:1", "NO_PROXY": "localhost"}  # fmt: skip
    docker.variables |= values | {"UNRELATED_SECRET": "x"}
    call = docker.succeed("run.sh")
    passed = call.values("--env")
    assert set(values) | {"PRECISION", "OUTPUT_DIR", "DATASET_DIR", "CONFIG_FILE", "HOME=/tmp"} == set(passed)
    assert values.items() <= call.environment.items()


def test_aliases_arrive_under_the_name_used_here(docker: Sandbox) -> None:
    docker.variables |= {"BERT_MODEL_CONFIG": docker.variables.pop("CONFIG_FILE"), "batch_size": "56"}
    call = docker.succeed("run.sh")
    assert {"CONFIG_FILE", "BATCH_SIZE"} <= set(call.values("--env"))
    assert call.environment["CONFIG_FILE"] == docker.variables["BERT_MODEL_CONFIG"]
    assert call.environment["BATCH_SIZE"] == "56"
    assert mount(docker.variables["BERT_MODEL_CONFIG"], ",readonly") in call.values("--mount")


@pytest.mark.parametrize(
    "written", ["--cpus 4 --label 'a b=c d' --label e=f\\ g", '--name "x y"', "  ", "--e '$HOME *'"]
)
def test_docker_args_are_split_as_a_shell_does(docker: Sandbox, written: str) -> None:
    docker.variables["DOCKER_ARGS"] = written
    before_image = docker.succeed("run.sh").arguments
    before_image = before_image[: before_image.index(IMAGE)]
    words = shlex.split(written)
    assert before_image[len(before_image) - len(words) :] == words
    assert before_image[-1] != ""


def test_docker_args_with_an_open_quote(docker: Sandbox) -> None:
    docker.variables["DOCKER_ARGS"] = "--label 'a"
    assert "DOCKER_ARGS=" in docker.refuse("run.sh")


def test_docker_args_that_the_engine_refuses(docker: Sandbox) -> None:
    """They are named on one line, before the container is run."""
    docker.fake("docker", "sys.argv[1] == 'run' and sys.exit('unknown flag: --bogus\\nSee docker run --help')")
    docker.variables["DOCKER_ARGS"] = "--bogus"
    result = docker.run("run.sh")
    (line,) = result.stderr.splitlines()
    assert result.returncode == 2 and "DOCKER_ARGS=--bogus" in line and "unknown flag" in line
    docker.variables["DOCKER_ARGS"] = "an-image"
    assert "DOCKER_ARGS=an-image" in docker.run("run.sh").stderr
    assert all(call.arguments[:2] == ["run", "--help"] for call in docker.calls("docker") if call.arguments[0] == "run")


@pytest.mark.parametrize("script", ["run_bert_pretrain_phase1.sh", "run_finetune.sh"])
def test_help(sandbox: Sandbox, script: str) -> None:
    """It lists the variables of run.sh and of the script, without a container engine."""
    sandbox.variables["SCRIPT"] = script
    result = sandbox.run("run.sh", "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert all(f"\n  {name} " in result.stdout for name in ("RUNTIME", "OUTPUT_DIR", "PRECISION"))
    assert ("\n  TASK " in result.stdout) == (script == "run_finetune.sh")


def test_a_link_to_the_script(docker: Sandbox) -> None:
    link = docker.directory / "a link"
    link.symlink_to(docker.project / "run.sh")
    assert docker.succeed(str(link)).arguments[0] == "run"


@pytest.mark.parametrize("runtime", ["container", "native"])
def test_a_misspelt_variable_is_noticed(docker: Sandbox, runtime: str) -> None:
    docker.variables |= {"MAX_STEP": "2", "RUNTIME": runtime}
    error = docker.refuse("run.sh")
    assert "MAX_STEP " in error and "MAX_STEPS?" in error


def test_words_arrive_in_lower_case(docker: Sandbox) -> None:
    docker.variables |= {"PRECISION": "BF16", "ENGINE": "Eager"}
    environment = docker.succeed("run.sh").environment
    assert (environment["PRECISION"], environment["ENGINE"]) == ("bf16", "eager")


def test_phase_2(phase_2: Sandbox) -> None:
    phase_2.fake("docker")
    phase_2.variables["SCRIPT"] = "run_bert_pretrain_phase2.sh"
    call = phase_2.succeed("run.sh")
    assert call.arguments[-1].endswith("/quickstart/run_bert_pretrain_phase2.sh")
    assert mount(phase_2.variables["CHECKPOINT_DIR"], ",readonly") in call.values("--mount")
    phase_2.variables |= {"SCRIPT": "", "TRAINING_PHASE": "2"}
    assert phase_2.succeed("run.sh").arguments[-1].endswith("/quickstart/run_bert_pretrain_phase2.sh")


def test_preparing_data_writes_to_the_dataset(sandbox: Sandbox) -> None:
    sandbox.fake("docker")
    sandbox.variables |= {
        "SCRIPT": "prepare_dataset.sh",
        "INPUT_DIR": sandbox.folder("text"),
        "VOCAB_FILE": sandbox.file("vocab.txt"),
        "DATASET_DIR": str(sandbox.directory / "shards"),
        "DUPE_FACTOR": "2",
        "PHASE1_FRACTION": "0.8",
        "EVAL_RECORDS": "10",
    }
    call = sandbox.succeed("run.sh")
    assert set(call.values("--mount")) == {
        mount(sandbox.variables["DATASET_DIR"]),
        mount(sandbox.variables["INPUT_DIR"], ",readonly"),
        mount(sandbox.variables["VOCAB_FILE"], ",readonly"),
    }
    passed = {"INPUT_DIR", "DATASET_DIR", "VOCAB_FILE", "DUPE_FACTOR", "PHASE1_FRACTION", "EVAL_RECORDS"}
    assert passed <= set(call.values("--env"))


def test_fine_tuning_in_a_container(finetune: Sandbox) -> None:
    finetune.fake("docker")
    finetune.variables |= {"SCRIPT": "run_finetune.sh", "DATASET_DIR": finetune.folder("glue"), "SEEDS": "1,2"}
    call = finetune.succeed("run.sh")
    assert set(call.values("--mount")) == {
        mount(finetune.variables["OUTPUT_DIR"]),
        mount(finetune.variables["CHECKPOINT_DIR"], ",readonly"),
        mount(finetune.variables["DATASET_DIR"], ",readonly"),
    }
    passed = call.values("--env")
    assert {"TASK", "CHECKPOINT_DIR", "OUTPUT_DIR", "DATASET_DIR", "SEEDS"} <= set(passed)
    assert len(passed) == len(set(passed))


def test_what_comes_from_the_hub_is_kept(finetune: Sandbox) -> None:
    """Its folder is made, and mounted like the output; with files available nothing comes from there."""
    finetune.fake("docker")
    cache = finetune.directory / "the cache"
    finetune.variables |= {"SCRIPT": "run_finetune.sh", "HF_HOME": str(cache)}
    call = finetune.succeed("run.sh")
    assert mount(str(cache)) in call.values("--mount")
    assert "HF_HOME" in call.values("--env")
    assert cache.is_dir()
    cache.rmdir()
    finetune.variables["DATASET_DIR"] = finetune.folder("glue")
    call = finetune.succeed("run.sh")
    assert not [word for word in call.values("--mount") if "cache" in word]
    assert "HF_HOME" not in call.values("--env")
    assert not cache.exists()


@pytest.mark.parametrize(
    "script",
    ["../run.sh", "common.sh", "demo.sh", "no_such_script.sh", "/bin/true",
     "run_bert_pretrain_phase1.sh run_bert_pretrain_phase2.sh"],
)  # fmt: skip
def test_an_unknown_script_lists_those_there_are(docker: Sandbox, script: str) -> None:
    docker.variables["SCRIPT"] = script
    error = docker.refuse("run.sh")
    assert f"SCRIPT={script} is unknown" in error
    assert error.split("choose one of ")[1].split() == [
        "prepare_dataset.sh", "run_bert_pretrain_phase1.sh", "run_bert_pretrain_phase2.sh", "run_finetune.sh",
    ]  # fmt: skip


@pytest.mark.parametrize("runtime", ["container", "native"])
@pytest.mark.parametrize("variable", ["PRECISION", "OUTPUT_DIR", "DATASET_DIR", "CONFIG_FILE"])
def test_what_is_missing_is_named(docker: Sandbox, variable: str, runtime: str) -> None:
    docker.variables |= {variable: "", "RUNTIME": runtime}
    assert variable in docker.refuse("run.sh")
    assert docker.calls("docker") == []
    assert not (docker.directory / "out put").exists()


@pytest.mark.parametrize(
    ("variable", "value"),
    [("RUNTIME", "vm"), ("TRAINING_PHASE", "3"), ("PRECISION", "int8"), ("DATASET_DIR", "/not/there")],
)
def test_a_wrong_value_is_named(docker: Sandbox, variable: str, value: str) -> None:
    docker.variables[variable] = value
    assert f"{variable}={value}" in docker.refuse("run.sh")


def test_a_missing_image_says_how_to_build_it(phase_1: Sandbox) -> None:
    phase_1.fake("docker", "sys.exit(sys.argv[1] == 'image')")
    error = phase_1.refuse("run.sh")
    assert f"image {IMAGE} is missing" in error
    assert "./build.sh" in error


def test_the_exit_code_comes_back(phase_1: Sandbox) -> None:
    phase_1.fake("docker", "sys.exit(46 if sys.argv[1] == 'run' else 0)")
    assert phase_1.run("run.sh").returncode == 46


def test_signals_reach_the_container(phase_1: Sandbox) -> None:
    assert phase_1.stop("run.sh", "docker") == 43


def test_native_runs_the_script_here(phase_1: Sandbox) -> None:
    phase_1.variables["RUNTIME"] = "native"
    call = phase_1.succeed("run.sh", "--seed", "a b")
    launcher = ["-m", "bert_large.distributed.launch"]
    assert call.arguments[:7] == [*launcher, "-m", "bert_large", "pretrain", "--phase", "1"]
    assert call.arguments[-2:] == ["--seed", "a b"]
    assert call.environment["DATASET_DIR"] == phase_1.variables["DATASET_DIR"]
    assert Path(phase_1.variables["OUTPUT_DIR"]).is_dir()
