"""Training on several devices and in several processes, with `keras.distribution` on JAX.

Without a distribution, the functions here change nothing, on any backend.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from builders import TransformerSpec
from functional_models.checks import check_count
from functional_models.processes import first_line, is_shared, meet

_BATCH, _MODEL = "batch", "model"
"""Axes of the mesh of devices."""

_SPLIT: dict[str, tuple[str | None, ...]] = {
    r".*attention\.(attention/)?(rotary_)?(query|key|value)/kernel": (None, _MODEL, None),
    r".*attention\.(attention/)?(rotary_)?(query|key|value)/bias": (_MODEL, None),
    r".*attention\.output_gate/kernel": (None, _MODEL, None),
    r".*attention\.output_gate/bias": (_MODEL, None),
    r".*attention\.(output|attention/attention_output)/kernel": (_MODEL, None, None),
    r".*feedforward\.(shared_expert\.)?(up|gate)/kernel": (None, _MODEL),
    r".*feedforward\.(shared_expert\.)?(up|gate)/bias": (_MODEL,),
    r".*feedforward\.(shared_expert\.)?down/kernel": (_MODEL, None),
    r".*feedforward\.experts\.(up|gate)/kernel": (None, None, _MODEL),
    r".*feedforward\.experts\.(up|gate)/bias": (None, _MODEL),
    r".*feedforward\.experts\.down/kernel": (None, _MODEL, None),
    r"(.*\.)?token_embedding/embeddings": (_MODEL, None),
    r"logits/kernel": (None, _MODEL),
    r"logits/bias": (_MODEL,),
}
"""Axes of the variables that are split, by pattern of their paths (Shoeybi et al. 2019, section 3).

Queries, keys, values and the first kernels of the feed-forward are split by columns, which are
heads and hidden channels; the kernels after them by rows; embeddings and logits by the vocabulary.
"""

_LONGEST_SILENCE = 100
"""Seconds until JAX ends the processes of which one has died; its default."""


class SplitModel(keras.distribution.ModelParallel):
    """`ModelParallel` that leaves a variable whole if the model axis does not divide it.

    Such are the heads of keys and values of grouped attention, and some vocabularies.
    """

    def get_variable_layout(self, variable: keras.Variable) -> Any:
        layout = super().get_variable_layout(variable)
        parts, shape = self.device_mesh.shape[1], variable.shape
        axes = getattr(layout, "axes", None)
        if axes is None:  # a layout of JAX, which the variable was made with
            return layout
        fits = len(axes) == len(shape)  # another layer of such a name may have another kernel
        if fits and all(n % parts == 0 for axis, n in zip(axes, shape, strict=True) if axis):
            return layout
        return keras.distribution.TensorLayout([None] * len(shape), self.device_mesh)


def distribute(
    devices: int | None = None,
    *,
    model_parallel: int = 1,
    hosts: str | None = None,
    process: int | None = None,
    processes: int | None = None,
    timeout: int = 300,
) -> keras.distribution.DataParallel | keras.distribution.ModelParallel:
    """Train and evaluate the models that are made from here on, on several devices of JAX.

    Each of devices / model_parallel replicas of the model computes a part of every batch. The loss
    is that of one device, with the same batches. Call it before anything is computed, and in every
    process with the same arguments but `process`.

    Args:
        devices: number of devices, of all processes together; by default all that JAX sees.
        model_parallel: devices that share the weights of a replica, as in Megatron-LM.
        hosts: address of the first process, HOST:PORT, or those of all, with commas; or `auto` in a
            job of Slurm, Open MPI, Kubernetes or a TPU pod. By default there is one process.
        process: number of this process, from 0.
        processes: number of processes; by default the number of addresses.
        timeout: seconds to wait for the other processes at the start. If one dies later, JAX ends
            the others after as many seconds, at most 100.

    Returns:
        The distribution, which `keras.distribution.distribution()` returns too.

    Raises:
        ValueError: another backend than JAX, more devices than there are, numbers that do not
            divide each other, or a call after something was computed.
        TimeoutError: a process does not answer.
    """
    if keras.backend.backend() != "jax":
        raise ValueError(
            f"several devices need the JAX backend, and this is {keras.backend.backend()}; set "
            "KERAS_BACKEND=jax in the environment"
        )
    import jax

    check_count("model_parallel", model_parallel)
    if devices is not None:
        check_count("devices", devices)
    if hosts is not None:
        check_count("timeout", timeout)
        _join(hosts, process, processes, timeout)
    elif process is not None or processes is not None:
        raise ValueError(
            "process and processes need hosts (--hosts), the address HOST:PORT of process 0"
        )
    found = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    names = [f"{device.platform}:{device.id}" for device in found]
    used = len(names) if devices is None else devices
    _check_numbers(used, names, model_parallel, jax.process_count())
    distribution = _distribution(names[:used], model_parallel)
    keras.distribution.set_distribution(distribution)
    return distribution


def _distribution(
    names: list[str], model_parallel: int
) -> keras.distribution.DataParallel | keras.distribution.ModelParallel:
    """Return the distribution over devices, of which groups share the weights of a replica."""
    if model_parallel == 1:
        return keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)
    shape = len(names) // model_parallel, model_parallel
    mesh = keras.distribution.DeviceMesh(shape, [_BATCH, _MODEL], names)
    layout_map = keras.distribution.LayoutMap(mesh)
    for pattern, axes in _SPLIT.items():
        layout_map[pattern] = axes
    return SplitModel(layout_map=layout_map, auto_shard_dataset=False)


def _check_numbers(devices: int, names: list[str], model_parallel: int, processes: int) -> None:
    """Check the number of devices, and how they are divided among replicas and processes."""
    there = f"{len(names)} of type {names[0].partition(':')[0]}"
    if devices > len(names):
        advice = ""
        if names[0].startswith("cpu"):
            flag = f"--xla_force_host_platform_device_count={devices}"
            advice = f"; to try it on a CPU, set XLA_FLAGS={flag} in the environment"
        raise ValueError(f"devices={devices}: JAX sees {there}{advice}")
    if processes > 1 and devices != len(names):
        raise ValueError(
            f"devices={devices}: {processes} processes use all of their devices, {there}; leave it "
            "out, or hide devices from JAX, such as with CUDA_VISIBLE_DEVICES"
        )
    if devices % model_parallel:
        raise ValueError(f"model_parallel={model_parallel}: must divide {devices} devices")
    own = devices // processes
    if own % model_parallel and model_parallel % own:
        raise ValueError(
            f"model_parallel={model_parallel}: must divide the {own} devices of a process, or be a "
            "multiple of them"
        )


def _join(hosts: str, process: int | None, processes: int | None, timeout: int) -> None:
    """Connect this process with the others.

    Raises:
        ValueError: a wrong address or number, or JAX has computed something before.
        TimeoutError: another process does not answer.
    """
    first, processes = _checked_hosts(hosts, process, processes)
    if first is not None and process is not None and processes is not None:
        meet(first, process, processes, timeout)
    import jax

    # JAX would catch SIGTERM for itself, so that it would stop nothing.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            first,
            processes,
            process,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=min(timeout, _LONGEST_SILENCE),
        )
    except ValueError:
        raise ValueError(
            "hosts='auto': this is no job of Slurm, Open MPI, Kubernetes or a TPU pod; give "
            "HOST:PORT of process 0"
        ) from None
    except jax.errors.JaxRuntimeError as error:
        raise TimeoutError(
            f"hosts={hosts!r}: not all processes have answered within {timeout} seconds; start "
            f"all of them with the same address and number ({first_line(error)})"
        ) from error
    except RuntimeError:
        raise ValueError(
            "distribute(hosts=...) must be called once, and before anything is computed or a model "
            "is made"
        ) from None
    from keras.src.backend.jax.distribution_lib import initialize_rng

    initialize_rng()  # models get the same weights in all processes


def _checked_hosts(
    hosts: str, process: int | None, processes: int | None
) -> tuple[str | None, int | None]:
    """Return the address of the first process and the number of processes; `None`: `auto`.

    Raises:
        ValueError: a wrong address or number.
    """
    if hosts == "auto":
        if process is not None or processes is not None:
            raise ValueError("hosts='auto' finds process and processes itself; leave them out")
        return None, None
    addresses = hosts.split(",")
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"hosts={address!r}: must be HOST:PORT, such as node1:1234, or auto")
    if processes is None and len(addresses) > 1:
        processes = len(addresses)
    if process is None or processes is None or len(addresses) not in (1, processes):
        raise ValueError(
            f"hosts={hosts!r}: needs also process, the number of this one from 0, and processes, "
            "the number of all; give one address, or one for each process"
        )
    check_count("processes", processes)
    check_count("process", process, least=0, most=processes - 1)
    return addresses[0], processes


# What a model and a batch must be like


def _replicas() -> int:
    """Return the number of parts of a batch that are computed at the same time."""
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else distribution.num_model_replicas


def check_batch_size(batch_size: int, parts: int = 1) -> None:
    """Check that the replicas of the model divide a training batch, or each of its parts.

    Raises:
        ValueError: they do not.
    """
    replicas = _replicas()
    if batch_size // parts % replicas:
        in_parts = f", in {parts} parts (gradient_accumulation)" if parts > 1 else ""
        raise ValueError(
            f"batch_size={batch_size}: must be a multiple of {replicas * parts}, as {replicas} "
            f"replicas of the model share it{in_parts}"
        )


def check_split(spec: TransformerSpec) -> None:
    """Check that the model axis divides heads and feed-forward layers of a model.

    Raises:
        ValueError: it does not.
    """
    distribution = keras.distribution.distribution()
    if not isinstance(distribution, SplitModel):
        return
    parts = distribution.device_mesh.shape[1]
    sizes = {}
    for block in {block for stack in spec.stacks for block in spec.blocks(stack)}:
        widths = ("expert_dim", "shared_expert_dim") if block.num_experts else ("intermediate_dim",)
        for name in ("num_heads", *widths):
            if value := getattr(block, name):
                sizes[name, value] = value
    common = math.gcd(*sizes.values())
    for name, value in sizes:
        if value % parts:
            allowed = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
            raise ValueError(
                f"model_parallel={parts}: does not divide {name}={value}; allowed for this model: "
                f"{allowed}"
            )


def check_is_distributed(model: keras.Model) -> None:
    """Check that a model was made after `distribute`.

    Raises:
        ValueError: it was made before.
    """
    if keras.distribution.distribution() is None:
        return
    from jax.sharding import SingleDeviceSharding

    if any(isinstance(v.value.sharding, SingleDeviceSharding) for v in model.variables):
        raise ValueError(
            "the model was made before distribute() was called; make it, or load it, afterwards"
        )


def fill_rows(batch: tuple[Any, np.ndarray, np.ndarray]) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return a batch with rows of weight zero added, so that the replicas divide it."""
    inputs, labels, weights = batch
    missing = -len(labels) % _replicas()
    if not missing:
        return batch

    def filled(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, np.repeat(x[:1], missing, axis=0)])

    empty = np.zeros((missing, *weights.shape[1:]), weights.dtype)
    return (
        keras.tree.map_structure(filled, inputs),
        filled(labels),
        np.concatenate([weights, empty]),
    )


def own_rows(batch: Any) -> Any:
    """Return the rows of a batch that this process reads."""
    if not is_shared():
        return batch
    distribution = keras.distribution.distribution()
    parts = min(distribution.num_model_replicas, distribution.num_processes)
    part = distribution.data_shard_id

    def rows(x: np.ndarray) -> np.ndarray:
        size = len(x) // parts
        return x[part * size : (part + 1) * size]

    return keras.tree.map_structure(rows, batch)


def describe() -> str:
    """Return the distribution for the header of a run; nothing without one."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return ""
    replicas, devices = _replicas(), distribution.device_mesh.devices.size
    parts = f", {devices // replicas} for each of {replicas} replicas" * (devices > replicas)
    processes = f", in {distribution.num_processes} processes" * is_shared()
    return f"; {devices} device{'s' * (devices != 1)}{parts}{processes}"
