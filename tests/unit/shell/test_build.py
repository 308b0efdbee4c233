"""build.sh: which base it builds on, what it passes to the engine, and what it refuses."""

from __future__ import annotations

import pytest

from .sandbox import Call, Sandbox

IMAGE = "model-zoo:pytorch-bert-large-training"
IPEX = "model-zoo:pytorch-ipex-spr"
STOCK = "model-zoo:pytorch-stock"


# Has one image, and prints the versions in every base.
HAS = """
if sys.argv[1:3] == ['image', 'inspect']:
    sys.exit(sys.argv[3] != {image!r})
if sys.argv[1] == 'run':
    print("torch 1.2.3")
"""


@pytest.fixture
def engine(sandbox: Sandbox) -> Sandbox:
    """A fake docker whose only image is the IPEX base."""
    sandbox.fake("docker", HAS.format(image=IPEX))
    return sandbox


def builds(sandbox: Sandbox) -> list[Call]:
    """Run build.sh, which must succeed, and return its builds."""
    sandbox.succeed("build.sh")
    return [call for call in sandbox.calls() if call.arguments[0] == "build"]


def test_the_default_base(engine: Sandbox) -> None:
    (build,) = builds(engine)
    assert build.value("--tag") == IMAGE
    assert build.value("--file") == str(engine.project / "Dockerfile")
    assert build.values("--build-arg") == [f"BASE_IMAGE={IPEX}"]
    assert build.arguments[-1] == str(engine.project) or build.arguments[-2] == str(engine.project)
    labels = dict(label.split("=", 1) for label in build.values("--label"))
    assert labels["org.opencontainers.image.version"] == "0.1.0"
    assert labels["org.opencontainers.image.base.name"] == IPEX


@pytest.mark.parametrize(("epoch", "created"), [(None, []), ("86400", ["1970-01-02T00:00:00Z"])])
def test_the_creation_time_is_a_label_only_on_request(engine: Sandbox, epoch: str | None, created: list[str]) -> None:
    """A time of its own would give an unchanged image another id with every build."""
    if epoch:
        engine.variables["SOURCE_DATE_EPOCH"] = epoch
    (build,) = builds(engine)
    labels = [label.removeprefix("org.opencontainers.image.") for label in build.values("--label")]
    assert [label.removeprefix("created=") for label in labels if label.startswith("created=")] == created


@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("-h", 0), ("--bogus", 2), ("stock", 2)])
def test_an_argument_starts_no_build(engine: Sandbox, argument: str, code: int) -> None:
    result = engine.run("build.sh", argument)
    assert result.returncode == code
    assert "BASE_IMAGE" in result.stdout if code == 0 else argument in result.stderr
    assert engine.calls("docker") == []


def test_the_stock_base_is_built_when_missing(engine: Sandbox) -> None:
    engine.variables |= {"BASE": "stock", "PYTHON_IMAGE": "my python:3.12", "TORCH_BUILD": "any", "ONECCL": "none"}
    base, label, image = builds(engine)
    assert base.value("--tag") == label.value("--tag") == STOCK
    assert base.value("--file") == str(engine.project / "docker/stock.Dockerfile")
    assert base.values("--build-arg") == ["PYTHON_IMAGE", "TORCH_BUILD"]
    assert base.environment["PYTHON_IMAGE"] == "my python:3.12"
    assert image.values("--build-arg") == [f"BASE_IMAGE={STOCK}"]


def test_the_ipex_base_is_built_when_missing(sandbox: Sandbox) -> None:
    sandbox.fake("docker", HAS.format(image="another:one"))
    settings = {name: f"my {name}" for name in ("TORCH_VERSION", "IPEX_VERSION", "ONECCL_VERSION", "ONECCL_INDEX_URL")}
    sandbox.variables |= settings | {"ONECCL": "required", "TORCH_BUILD": "any"}
    base, label, image = builds(sandbox)
    assert base.value("--tag") == label.value("--tag") == IPEX
    assert base.value("--file") == str(sandbox.project / "docker/ipex.Dockerfile")
    assert set(base.values("--build-arg")) == {*settings, "ONECCL", "TORCH_BUILD"}
    assert settings.items() <= base.environment.items()
    assert image.values("--build-arg") == [f"BASE_IMAGE={IPEX}"]


def test_the_base_is_labeled_with_what_it_holds(sandbox: Sandbox) -> None:
    labels = sandbox.directory / "labels"
    sandbox.fake("docker", HAS.format(image="no") + f"""
if '-' in sys.argv:
    open({str(labels)!r}, 'w').write(sys.stdin.read())
""")  # fmt: skip
    builds(sandbox)
    assert labels.read_text() == f'FROM {IPEX}\nLABEL bert-large.base="torch 1.2.3"\n'


def test_the_stock_base_is_kept_when_there(sandbox: Sandbox) -> None:
    sandbox.fake("docker")
    sandbox.variables["BASE"] = "stock"
    (image,) = builds(sandbox)
    assert image.value("--tag") == IMAGE


@pytest.mark.parametrize(
    ("variables", "missing"),
    [
        ({"IPEX_VERSION": "2.8.0"}, "IPEX 2.8.0"),
        ({"TORCH_VERSION": "2.8.0"}, "torch 2.8.0"),
        ({"ONECCL": "required"}, "oneCCL"),
        ({"TORCH_VERSION": "2.7.0", "IPEX_VERSION": "2.7.0", "ONECCL": "auto", "ONECCL_VERSION": "2.7.0"}, None),
        ({"BASE": "stock", "BASE_IMAGE": IPEX, "IPEX_VERSION": "2.8.0"}, None),
    ],
)
def test_an_existing_base_has_the_versions_asked_for(
    sandbox: Sandbox, variables: dict[str, str], missing: str | None
) -> None:
    label = "torch 2.7.0, IPEX 2.7.0, without oneCCL (ONECCL=none)"
    sandbox.fake("docker", f"if '--format' in sys.argv:\n    print({label!r})")
    sandbox.variables |= variables
    if missing:
        assert f"{missing} was asked for, but the existing base {IPEX} has {label}" in sandbox.refuse("build.sh")
    else:
        assert f"existing base {IPEX}: {label}.\n" in sandbox.run("build.sh").stdout


def test_an_existing_base_without_label(engine: Sandbox) -> None:
    engine.variables["IPEX_VERSION"] = "2.8.0"
    assert "no label that lists its versions" in engine.refuse("build.sh")
    del engine.variables["IPEX_VERSION"]
    assert f"existing base {IPEX}: versions unknown.\n" in engine.run("build.sh").stdout


def test_any_base(sandbox: Sandbox) -> None:
    sandbox.fake("docker")
    sandbox.variables |= {"BASE_IMAGE": "my/base:1", "IMAGE_NAME": "mine:2"}
    (image,) = builds(sandbox)
    assert image.values("--build-arg") == ["BASE_IMAGE=my/base:1"]
    assert image.value("--tag") == "mine:2"


def test_a_missing_base_is_named_with_the_ways_out(sandbox: Sandbox) -> None:
    sandbox.fake("docker", "sys.exit(sys.argv[1] == 'image')")
    sandbox.variables["BASE_IMAGE"] = "my/base:1"
    assert "my/base:1" in sandbox.refuse("build.sh")


def test_settings_of_proxies_and_pip_are_passed_by_name(engine: Sandbox) -> None:
    values = {
        "http_proxy": "http://user:secret@proxy:1",
        "HTTPS_PROXY": "http://proxy:1",
        "no_proxy": "localhost",
        "PIP_INDEX_URL": "http://index",
        "PIP_EXTRA_INDEX_URL": "http://more",
        "PIP_FIND_LINKS": "/some where",
        "PIP_TRUSTED_HOST": "index",
    }
    engine.variables |= values | {"BASE": "stock"}
    base, _, image = builds(engine)
    for build in (base, image):
        assert set(values) <= set(build.values("--build-arg"))
        assert values.items() <= build.environment.items()
        assert not [word for word in build.arguments if "secret" in word]


def test_the_packages_of_fine_tuning_are_asked_for(engine: Sandbox) -> None:
    engine.variables |= {"BASE": "stock", "FINETUNE": "1"}
    base, _, image = builds(engine)
    assert "FINETUNE" not in base.values("--build-arg")
    assert image.values("--build-arg") == [f"BASE_IMAGE={STOCK}", "FINETUNE"]
    assert image.environment["FINETUNE"] == "1"


@pytest.mark.parametrize(("variable", "value"), [("FINETUNE", "maybe"), ("BASE", "cuda"), ("SOURCE_DATE_EPOCH", "x")])
def test_a_wrong_value_is_refused(engine: Sandbox, variable: str, value: str) -> None:
    engine.variables[variable] = value
    assert f"{variable}={value}" in engine.refuse("build.sh")


def test_docker_build_args(engine: Sandbox) -> None:
    engine.variables["DOCKER_BUILD_ARGS"] = "--network host --label 'a b=c d'"
    (build,) = builds(engine)
    assert build.value("--network") == "host"
    assert "a b=c d" in build.values("--label")


def test_pytorch_and_the_bindings_follow_ipex(sandbox: Sandbox) -> None:
    """Each release of IPEX works with one version of PyTorch; a version that is given wins."""
    sandbox.fake("docker", "sys.exit(sys.argv[1:3] == ['image', 'inspect'])")
    sandbox.variables |= {"IPEX_VERSION": "2.8.0"}
    base = builds(sandbox)[0]
    assert {"TORCH_VERSION", "IPEX_VERSION", "ONECCL_VERSION"} <= set(base.values("--build-arg"))
    assert [base.environment[name] for name in ("TORCH_VERSION", "ONECCL_VERSION")] == ["2.8.0", "2.8.0"]
    sandbox.variables |= {"TORCH_VERSION": "2.8.1"}
    assert [call.environment["TORCH_VERSION"] for call in builds(sandbox)][-3] == "2.8.1"


def test_dockers_legacy_builder_is_quiet(sandbox: Sandbox) -> None:
    """Not BuildKit, whose output is short and shows progress."""
    body = "sys.exit(sys.argv[1] == 'buildx' and {missing} or sys.argv[1:3] == ['image', 'inspect'])"
    for missing in (True, False):
        sandbox.fake("docker", body.format(missing=missing))
        last = builds(sandbox)[-1]
        assert ("--quiet" in last.arguments) == missing


def test_podman(sandbox: Sandbox) -> None:
    sandbox.fake("podman")
    (build,) = builds(sandbox)
    assert (build.tool, build.value("--tag")) == ("podman", IMAGE)
    assert build.value("--format") == "docker"  # podman's default format has no health check


def test_without_an_engine(sandbox: Sandbox) -> None:
    assert "RUNTIME=native" in sandbox.refuse("build.sh")


def test_a_failed_build_fails(sandbox: Sandbox) -> None:
    sandbox.fake("docker", "sys.exit(7 if sys.argv[1] == 'build' else 0)")
    result = sandbox.run("build.sh")
    assert result.returncode == 7
    assert "Built" not in result.stdout
