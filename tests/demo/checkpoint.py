"""A `.pt` file, as torch.save writes it, without torch: its package for Linux is 540 MB, and brings more with it.

A zip archive, nothing compressed: `data.pkl` is a pickle in which each tensor's numbers are a persistent id, and
`data/0`, `data/1` … are those numbers. What it names is what torch.load(weights_only=True) allows.
"""

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Checkpoint = Mapping[str, Any]
"""What a checkpoint holds: names to arrays, numbers, texts or further mappings."""


# Torch's own, by name only: a pickle holds names, and this module stands in while one is written.


class FloatStorage:
    """torch.FloatStorage."""


def _rebuild_tensor_v2() -> None:
    """torch._utils._rebuild_tensor_v2."""


@contextmanager
def _names_of_torch() -> Iterator[None]:
    package, utils = ModuleType("torch"), ModuleType("torch._utils")
    vars(package).update(FloatStorage=FloatStorage, _utils=utils)
    vars(utils).update(_rebuild_tensor_v2=_rebuild_tensor_v2)
    FloatStorage.__module__, _rebuild_tensor_v2.__module__ = "torch", "torch._utils"
    with mock.patch.dict(sys.modules, {"torch": package, "torch._utils": utils}):
        yield


@dataclass(frozen=True)
class _Storage:
    """The numbers of one tensor, kept in `data/<key>`."""

    key: str
    size: int


@dataclass(frozen=True)
class _Tensor:
    """A dense tensor on the CPU, pickled as torch does it."""

    storage: _Storage
    shape: tuple[int, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        strides = [1]
        for length in reversed(self.shape[1:]):
            strides.insert(0, strides[0] * length)
        hooks: OrderedDict[str, object] = OrderedDict()
        return _rebuild_tensor_v2, (self.storage, 0, self.shape, tuple(strides), False, hooks)


class _Pickler(pickle.Pickler):
    def persistent_id(self, found: object) -> Any:
        match found:
            case _Storage(key, size):
                return "storage", FloatStorage, key, "cpu", size
        return None


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Writes `path`; torch.load gives the same checkpoint with tensors for arrays."""
    arrays: list[Array] = []
    tree = _with_tensors(checkpoint, arrays)
    pickled = io.BytesIO()
    with _names_of_torch():
        _Pickler(pickled, protocol=2).dump(tree)
    members = {"data.pkl": pickled.getvalue()}
    members |= {f"data/{key}": array.astype("<f4").tobytes() for key, array in enumerate(arrays)}
    members["version"] = b"3\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(f"{path.stem}/{name}"), content)  # not compressed, dated 1980


def _with_tensors(found: Any, arrays: list[Array]) -> Any:
    if isinstance(found, Mapping):
        return {name: _with_tensors(inner, arrays) for name, inner in found.items()}
    if isinstance(found, np.ndarray):
        arrays.append(found)
        return _Tensor(_Storage(str(len(arrays) - 1), found.size), found.shape)
    return found


class _Unpickler(pickle.Unpickler):
    """Allows nothing but what a checkpoint of tensors needs."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self._archive, self._root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        known = {
            "torch._utils._rebuild_tensor_v2": _rebuild_array,
            "torch.FloatStorage": np.float32,
            "collections.OrderedDict": OrderedDict,
        }
        try:
            return known[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed") from None

    def persistent_load(self, pid: Any) -> Array:
        _, dtype, key, _, size = pid
        numbers: Array = np.frombuffer(self._archive.read(f"{self._root}/data/{key}"), dtype)
        if numbers.size != size:
            raise pickle.UnpicklingError(f"data/{key} has {numbers.size} numbers, not {size}")
        return numbers


def _rebuild_array(numbers: Array, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> Array:
    bytes_each = tuple(stride * numbers.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(numbers[offset:], shape, bytes_each)


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint of float32 tensors, without torch, and without running what a pickle may name."""
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        checkpoint: Checkpoint = _Unpickler(archive, pickles[0].partition("/")[0]).load()
    return checkpoint
