import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import gguf
import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from tests.conftest import absent
from tests.demo import checkpoint
from tests.demo.__main__ import unable
from tests.demo.models import makers

MIB = 1 << 20


def run_demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The demo as `make demo` runs it, its files in `folder`."""
    return subprocess.run(
        [sys.executable, "-m", "tests.demo", *arguments],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def test_the_demo_brings_every_file_back_and_leaves_nothing(tmp_path: Path) -> None:
    if reason := unable(MIB):
        absent(reason)
    done = run_demo(tmp_path, "--size", "20")
    lines = done.stdout.splitlines()

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "  Every file came back equal." in done.stdout
    assert sum(line.endswith("…  equal") for line in lines) == 11
    assert "DIFFERS" not in done.stdout
    stored = [line for line in lines if "→  models/" in line]
    assert len(stored) == 5
    assert "vit-l/0.1/model.safetensors" in stored[0]
    assert any("vera$ git push origin main" in line for line in lines)
    assert any("otto$ git clone ../origin.git cellar" in line for line in lines)
    assert "\x1b" not in done.stdout
    assert max(len(line) for line in lines if str(tmp_path) not in line) < 100
    assert list(tmp_path.iterdir()) == []


def test_the_demo_says_what_it_lacks(tmp_path: Path) -> None:
    done = run_demo(tmp_path, "--size", str(1 << 40))

    assert done.returncode == 1
    assert "TMPDIR names another folder" in done.stderr


def test_each_model_file_is_read_by_the_library_of_its_format(tmp_path: Path) -> None:
    for name, make in makers(8 * MIB).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        make(tmp_path / name)
    tensors = load_file(tmp_path / "vit-l/0.1/model.safetensors")
    head = checkpoint.load(tmp_path / "vit-l/0.1/head.pt")
    llama = gguf.GGUFReader(tmp_path / "llama/0.1/model.gguf")
    curve = Image.open(tmp_path / "vit-l/0.1/training-curve.png")

    assert (tmp_path / "vit-l/0.1/model.safetensors").stat().st_size >= 8 * MIB
    assert tensors["vision_model.encoder.layers.0.mlp.fc1.weight"].shape == (4096, 1024)
    assert head["model"]["classifier.weight"].shape == (1000, 1024)
    assert head["epoch"] == 12
    assert llama.fields["llama.block_count"].contents() == 2
    assert {tensor.tensor_type.name for tensor in llama.tensors} == {"Q8_0"}
    assert curve.size == (640, 400)
    assert json.loads((tmp_path / "vit-l/0.1/evaluation-result.json").read_text())["top1"] == 0.8517


def test_a_checkpoint_written_without_torch_keeps_its_numbers(tmp_path: Path) -> None:
    weight = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    checkpoint.save({"model": {"weight": weight, "bias": weight[0, 0]}, "epoch": 3}, tmp_path / "head.pt")
    found = checkpoint.load(tmp_path / "head.pt")

    assert found["epoch"] == 3
    assert np.array_equal(found["model"]["weight"], weight)
    assert np.array_equal(found["model"]["bias"], [0, 1, 2, 3])
    assert "torch" not in sys.modules


def test_a_checkpoint_is_pickled_as_torch_does(tmp_path: Path) -> None:
    checkpoint.save({"a.w": np.arange(6, dtype=np.float32).reshape(2, 3), "step": 3}, tmp_path / "t.pt")
    with zipfile.ZipFile(tmp_path / "t.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    # What torch.save({"a.w": torch.arange(6.0).reshape(2, 3), "step": 3}, "t.pt") of torch 1.13 wrote.
    assert members == {
        "t/data.pkl": (
            b"\x80\x02}q\x00(X\x03\x00\x00\x00a.wq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02((X\x07\x00\x00\x00storage"
            b"q\x03ctorch\nFloatStorage\nq\x04X\x01\x00\x00\x000q\x05X\x03\x00\x00\x00cpuq\x06K\x06tq\x07QK\x00K\x02K"
            b"\x03\x86q\x08K\x03K\x01\x86q\t\x89ccollections\nOrderedDict\nq\n)Rq\x0btq\x0cRq\rX\x04\x00\x00\x00step"
            b"q\x0eK\x03u."
        ),
        "t/data/0": bytes.fromhex("000000000000803f0000004000004040000080400000a040"),
        "t/version": b"3\n",
    }
