"""The files of a small cellar, each written by the library that owns its format; the weights are random numbers."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from safetensors.numpy import save_file

from tests.demo import checkpoint

PATTERNS = ("*.safetensors", "*.pt", "*.gguf", "*.png", "*result*.json")
"""What goes to Git LFS: of ml-cellar's own list, and GGUF."""

Maker = Callable[[Path], str]
"""Writes a file; says what it holds, and by which library."""


def makers(size: int) -> Mapping[str, Maker]:
    """The cellar's files by path; the largest has `size` bytes or a little more."""
    return {
        "vit-l/0.1/model.safetensors": lambda path: vision_transformer(path, size),
        "vit-l/0.1/head.pt": classifier_head,
        "vit-l/0.1/evaluation-result.json": evaluation,
        "vit-l/0.1/training-curve.png": training_curve,
        "llama/0.1/model.gguf": language_model,
    }


def texts() -> Mapping[str, str]:
    """The small files beside them, which stay in git."""
    config = {"model_type": "vit", "hidden_size": 1024, "num_attention_heads": 16, "image_size": 224}
    return {
        ".gitattributes": "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in PATTERNS),
        "README.md": "# cellar\n\nA rack a model family, a bin a version.\n",
        "vit-l/README.md": "# vit-l\n\n## Release\n\n### 0.1\n\n- First harvest.\n",
        "vit-l/0.1/config.json": json.dumps(config, indent=2) + "\n",
        "llama/README.md": "# llama\n\n## Release\n\n### 0.1\n\n- Small, in 8 bits.\n",
    }


def vision_transformer(path: Path, size: int) -> str:
    """ViT-L/16 in float16 with as many layers as `size` bytes need: the real names and shapes."""
    rng = np.random.default_rng(16)
    hidden, inner = 1024, 4096
    root = "vision_model.embeddings"
    tensors = {
        f"{root}.class_embedding": _half(rng, hidden),
        f"{root}.patch_embedding.weight": _half(rng, hidden, 3, 16, 16),
        f"{root}.position_embedding.weight": _half(rng, 197, hidden),
    }
    layers = 0
    while sum(tensor.nbytes for tensor in tensors.values()) < size:
        layer = f"vision_model.encoder.layers.{layers}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            tensors[f"{layer}.self_attn.{name}.weight"] = _half(rng, hidden, hidden)
            tensors[f"{layer}.self_attn.{name}.bias"] = _half(rng, hidden)
        for name, shape in (("fc1", (inner, hidden)), ("fc2", (hidden, inner))):
            tensors[f"{layer}.mlp.{name}.weight"] = _half(rng, *shape)
            tensors[f"{layer}.mlp.{name}.bias"] = _half(rng, shape[0])
        for name in ("layer_norm1", "layer_norm2"):
            tensors[f"{layer}.{name}.weight"] = np.ones(hidden, np.float16)
            tensors[f"{layer}.{name}.bias"] = np.zeros(hidden, np.float16)
        layers += 1
    save_file(tensors, path, metadata={"format": "np"})
    return f"{len(tensors)} tensors of ViT-L/16, by safetensors"


def _half(rng: np.random.Generator, *shape: int) -> NDArray[np.float16]:
    numbers = rng.standard_normal(shape, dtype=np.float32)
    numbers *= 0.02
    return numbers.astype(np.float16)


def classifier_head(path: Path) -> str:
    """A classifier's last layer, in the midst of its training."""
    rng = np.random.default_rng(1)
    weight, momentum = (rng.standard_normal((1000, 1024), dtype=np.float32) for _ in range(2))
    head = {"classifier.weight": weight, "classifier.bias": np.zeros(1000, np.float32)}
    checkpoint.save({"model": head, "optimizer": {"momentum.classifier.weight": momentum}, "epoch": 12}, path)
    return "3 tensors, laid out as by torch.save"


def language_model(path: Path) -> str:
    """A small Llama, its matrices in the 8 bits of Q8_0."""
    rng = np.random.default_rng(8)
    words, hidden, inner, layers = 8000, 512, 1376, 2
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_head_count(8)
    writer.add_layer_norm_rms_eps(1e-5)
    shapes = {"token_embd": (words, hidden), "output": (words, hidden)}
    for layer in range(layers):
        shapes |= {f"blk.{layer}.attn_{name}": (hidden, hidden) for name in ("q", "k", "v", "output")}
        shapes |= {f"blk.{layer}.ffn_{name}": (inner, hidden) for name in ("gate", "up")}
        shapes |= {f"blk.{layer}.ffn_down": (hidden, inner)}
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, shape in shapes.items():
        weights = rng.standard_normal(shape, dtype=np.float32)
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(weights, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return f"{len(shapes)} tensors of a small Llama, by gguf"


def evaluation(path: Path) -> str:
    """Notes of a training run."""
    result = {"epoch": 12, "top1": 0.8517, "top5": 0.9751, "loss": 0.613, "images": 50_000}
    path.write_text(json.dumps(result, indent=2) + "\n")
    return "what an evaluation found, by json"


def training_curve(path: Path) -> str:
    """The loss over the epochs, with a validation curve above it."""
    width, height = 640, 400
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    draw.line([(40, 20), (40, height - 40), (width - 20, height - 40)], fill="black", width=2)
    rng = np.random.default_rng(640)
    for colour, floor in (("#1f77b4", 30.0), ("#d62728", 70.0)):
        x = np.arange(560)
        loss = floor + 270 * np.exp(-x / 120) + rng.normal(0, 3, x.size)
        draw.line([(40 + float(a), height - 40 - float(b)) for a, b in zip(x, loss, strict=True)], colour, 2)
    image.save(path)
    return "the loss over the epochs, by Pillow"
