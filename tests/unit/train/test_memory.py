"""The prediction of memory, computed by hand for a small model, and its check before training."""

from __future__ import annotations

from pathlib import Path

import pytest
from bert_large.config.model import ModelConfig
from bert_large.model.bert import skeleton
from bert_large.train.memory import predict_memory, read_available_bytes, read_free_swap_bytes

from tests.support.models import tiny_config
from tests.unit.distributed.machines import write_file

GIB = 1 << 30


def test_by_hand() -> None:
    config = tiny_config(hidden_size=64, intermediate_size=256, vocab_size=1000, num_hidden_layers=3)
    parameters = sum(weight.numel() for weight in skeleton(config).parameters())
    few = predict_memory(config, precision="fp32", micro_batch_tokens=1000, longest=128)
    assert few.state == 16 * parameters + (100 << 20)
    assert few.head == 4 * 150 * 1000
    of_layers = 2 * (8 * 64 + 2 * 256) + 5 * 64 + 0.15 * (7 * 64 + 2 * 256)
    assert few.per_token == 4 * (of_layers + 3 * 64)
    many = predict_memory(config, precision="fp32", micro_batch_tokens=8000, longest=128)
    assert many.head == 4 * 1024 * 1000 + 4 * 1000 * 64  # more masked tokens than rows of logits
    assert many.total - few.total == 7000 * few.per_token + many.head - few.head


def test_more_masked_tokens() -> None:
    """As with a higher --masking-rate."""
    config = tiny_config(hidden_size=64, vocab_size=1000)
    usual, more = (
        predict_memory(config, precision="fp32", micro_batch_tokens=1000, longest=128, masked_share=share)
        for share in (0.15, 0.4)
    )
    assert more.head - usual.head == 4 * 250 * 1000 and more.per_token > usual.per_token


def test_each_rank_keeps_its_share_of_the_moments() -> None:
    config = tiny_config()
    parameters = sum(weight.numel() for weight in skeleton(config).parameters())
    whole, share = (
        predict_memory(config, precision="fp32", micro_batch_tokens=1000, longest=128, optimizer_shards=count)
        for count in (1, 4)
    )
    assert whole.state - share.state == pytest.approx(8 * parameters * 3 / 4, abs=1)


@pytest.mark.parametrize(("precision", "measured"), [("fp32", 11.43), ("bf16", 9.0)])
def test_bert_large(precision: str, measured: float) -> None:
    """Its measured peak with micro-batches of 4096 tokens, in GiB (benchmarks/NOTES.md)."""
    need = predict_memory(ModelConfig(), precision=precision, micro_batch_tokens=4096, longest=512)
    assert need.total == pytest.approx(measured * GIB, rel=0.02)


MEMINFO = "MemTotal:       24689764 kB\nMemFree:         1000000 kB\nMemAvailable:    8388608 kB\n"
V2 = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1 = "32 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "available"),
    [
        ("0::/\n", V2, {}, 8 * GIB),
        ("0::/\n", V2, {"memory.max": "max", "memory.current": "5"}, 8 * GIB),
        ("0::/job\n", V2, {"job/memory.max": f"{4 * GIB}", "job/memory.current": f"{3 * GIB}",
                           "job/memory.stat": f"anon 5\ninactive_file {GIB}\n"}, 2 * GIB),
        ("0::/job\n", V2, {"memory.max": f"{4 * GIB}", "memory.current": f"{GIB}", "job/memory.max": "max"}, 3 * GIB),
        ("4:memory:/\n", V1, {"memory/memory.limit_in_bytes": f"{2 * GIB}", "memory/memory.usage_in_bytes": f"{GIB}",
                              "memory/memory.stat": "total_inactive_file 0\n"}, GIB),
        ("4:memory:/\n", V1, {"memory/memory.limit_in_bytes": "9223372036854771712",
                              "memory/memory.usage_in_bytes": "0"}, 8 * GIB),
    ],
)  # fmt: skip
def test_available_memory(groups: str, mounts: str, files: dict[str, str], available: int, tmp_path: Path) -> None:
    write_file(tmp_path / "proc/meminfo", MEMINFO)
    write_file(tmp_path / "proc/self/cgroup", groups)
    write_file(tmp_path / "proc/self/mountinfo", mounts)
    for name, text in files.items():
        write_file(tmp_path / "sys/fs/cgroup" / name, text + "\n")
    assert read_available_bytes(tmp_path) == available


def test_a_system_that_does_not_report_it(tmp_path: Path) -> None:
    assert read_available_bytes(tmp_path) is None


def test_free_swap_space(tmp_path: Path) -> None:
    write_file(tmp_path / "proc/meminfo", f"{MEMINFO}SwapFree:        2048 kB\n")
    assert read_free_swap_bytes(tmp_path) == 2 << 20
    assert read_free_swap_bytes(tmp_path / "nowhere") == 0
