"""Blocks and the nets between them: one description that PyRTL builds flat and Verilog prints as a shell.

Every output of an instance is a net called `instance__port`; an input is connected to one net of its width. The
shell's own ports are nets by their names.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pyrtl
from pyrtl import WireVector

from tilewright.dataflow.errors import InputError
from tilewright.hls_templates.rtl.array import Leaf
from tilewright.hls_templates.rtl.cell import Wires


@dataclass(frozen=True, slots=True)
class Instance:
    """A block under a name, its inputs connected to nets by (port, net)."""

    name: str
    leaf: Leaf
    nets: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Netlist:
    """Instances between `inputs` (width by name) and `outputs` (net by name)."""

    name: str
    inputs: Mapping[str, int]
    outputs: Mapping[str, str]
    instances: tuple[Instance, ...]

    def widths(self) -> dict[str, int]:
        """Width of every net by name."""
        found = dict(self.inputs)
        for instance in self.instances:
            found |= {f"{instance.name}__{port}": bits for port, bits in instance.leaf.outputs.items()}
        return found

    def __post_init__(self) -> None:
        widths = self.widths()
        for instance in self.instances:
            nets = dict(instance.nets)
            for port, bits in instance.leaf.inputs.items():
                if widths.get(nets.get(port, "")) != bits:
                    raise InputError(
                        f"netlist {self.name!r}: {instance.name}.{port} takes {bits} bits,"
                        f" its net {nets.get(port)!r} has {widths.get(nets.get(port, ''))}"
                    )


def build_netlist(netlist: Netlist, wires: Mapping[str, WireVector]) -> Wires:
    """The outputs of all instances together, flat in the working block, from the shell's inputs."""
    nets: dict[str, WireVector] = {
        name: pyrtl.WireVector(bits) for name, bits in netlist.widths().items() if name not in netlist.inputs
    }
    nets |= wires
    for instance in netlist.instances:
        outputs = instance.leaf.build({port: nets[net] for port, net in instance.nets})
        for port, wire in outputs.items():
            nets[f"{instance.name}__{port}"] <<= wire
    return {name: nets[net] for name, net in netlist.outputs.items()}


def shell_verilog(netlist: Netlist) -> str:
    """The shell as a Verilog module with `clk` and a synchronous `rst`; its leaves are modules of their names."""
    widths = netlist.widths()
    ports = ["input wire clk", "input wire rst"]
    ports += [f"input wire {_range(bits)}{name}" for name, bits in netlist.inputs.items()]
    ports += [f"output wire {_range(widths[net])}{name}" for name, net in netlist.outputs.items()]
    lines = [f"module {netlist.name}(", ",\n".join(f"    {port}" for port in ports), ");"]
    lines += [
        f"    wire {_range(bits)}{name};" for name, bits in widths.items() if name not in netlist.inputs
    ]
    for instance in netlist.instances:
        lines.append(f"    {instance.leaf.name} {instance.name} (")
        nets = [("clk", "clk"), ("rst", "rst"), *instance.nets]
        nets += [(port, f"{instance.name}__{port}") for port in instance.leaf.outputs]
        lines.append(",\n".join(f"        .{port}({net})" for port, net in nets))
        lines.append("    );")
    lines += [f"    assign {name} = {net};" for name, net in netlist.outputs.items()]
    return "\n".join([*lines, "endmodule", ""])


def _range(bits: int) -> str:
    return f"[{bits - 1}:0] " if bits > 1 else ""
