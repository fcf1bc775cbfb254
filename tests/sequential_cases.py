"""Small networks, graphs and architectures for the tests of the family `sequential`."""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tilewright.dataflow.graph import Graph, LayerClass, Network
from tilewright.dataflow.operator import Access, Kind, Operator
from tilewright.dataflow.tensor import Role, Tensor
from tilewright.sim.architecture import Architecture
from tilewright.sim.device import device_named
from tilewright.sim.sequential import Sequential
from tilewright.workloads.workload import load_workload

CONFIG = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "n_embd": 64,
    "n_head": 4,
    "n_layer": 3,
    "n_positions": 4096,
    "vocab_size": 101,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
ADAPTER = "lora:r=4,targets=q+k+v+o"


@cache
def small_network(
    phase: str = "prefill", mode: str = "none", seq: int = 48, cache_tokens: int = 95
) -> Network:
    """A GPT-2 of width 64, 4 heads, 3 layers: prefill of `seq` tokens, or decode of one behind a cache."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.write_text(json.dumps(CONFIG), encoding="utf-8")
        return load_workload(
            file,
            adapter=None if mode == "none" else ADAPTER,
            adapter_mode="unmerged" if mode == "none" else mode,
            phase=phase,
            seq=seq if phase == "prefill" else 1,
            cache=0 if phase == "prefill" else cache_tokens,
        ).network


def block_of(network: Network) -> Graph:
    """The graph of the layer class that is repeated."""
    return max(network, key=lambda layer: layer.count).graph


def gemm_graph(m: int, n: int, k: int, output: str = "int8") -> Graph:
    """c[m, n] = a[m, k] b[k, n] with int8 operands and nothing else."""
    product = Operator(
        "product",
        Kind.CONTRACTION,
        Access.of("c", "m", "n"),
        (Access.of("a", "m", "k"), Access.of("b", "k", "n")),
        "mul",
        "sum",
        "linear",
    )
    return Graph(
        "gemm",
        (("m", m), ("n", n), ("k", k)),
        (
            Tensor("a", ("m", "k"), "int8", Role.ACTIVATION),
            Tensor("b", ("k", "n"), "int8", Role.WEIGHT),
            Tensor("c", ("m", "n"), output, Role.ACTIVATION),
        ),
        (product,),
        ("a", "b"),
        ("c",),
    )


def gemm_network(m: int, n: int, k: int, count: int = 1) -> Network:
    return (LayerClass("gemm", gemm_graph(m, n, k), count),)


def architecture(device: str = "u280", **parameters: int | float | str | bool) -> Architecture:
    """The family's default on `device` with some parameters changed."""
    return Sequential().build(parameters, device_named(device))
