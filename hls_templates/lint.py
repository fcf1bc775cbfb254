"""The lint rung: pragmas, channels and ports of generated C++, which compilers do not check.

g++ and clang accept `#pragma HLS PIPLINE II=one` and a variable that does not exist without a word, so the
rules of the vendor's guide are checked here.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from tilewright.dataflow.errors import nearest
from tilewright.hls_templates.source import Declared, Function, Pragma, Source

_INT = r"-?\d+"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong at a line of a file."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


#: Options by directive: a pattern that the whole value must match, "int" for a number or a constant's name,
#: "name" for a variable, None for a flag without a value.
_INTERFACE_MODES = ("m_axi", "s_axilite", "axis", "ap_none", "ap_ctrl_hs", "ap_ctrl_chain", "ap_ctrl_none")
_OPTIONS: Mapping[str, Mapping[str, str | None]] = {
    "PIPELINE": {"ii": "int", "off": None, "rewind": None, "style": "stp|frp|flp"},
    "UNROLL": {"factor": "int", "skip_exit_check": None, "off": "true"},
    "LOOP_TRIPCOUNT": {"min": "int", "max": "int", "avg": "int"},
    "LOOP_FLATTEN": {"off": None},
    "INLINE": {"off": None, "recursive": None},
    "DATAFLOW": {"disable_start_propagation": None},
    "ARRAY_PARTITION": {"variable": "name", "type": "cyclic|block|complete", "factor": "int", "dim": "int"},
    "ARRAY_RESHAPE": {"variable": "name", "type": "cyclic|block|complete", "factor": "int", "dim": "int"},
    "BIND_STORAGE": {
        "variable": "name", "type": "fifo|ram_1p|ram_1wnr|ram_2p|ram_s2p|ram_t2p|rom_1p|rom_2p|rom_np",
        "impl": "bram|uram|lutram|srl|auto", "latency": "int",
    },
    "STREAM": {"variable": "name", "depth": "int", "type": "fifo|pipo|shared|unsync"},
    "DEPENDENCE": {
        "variable": "name", "type": "inter|intra", "direction": "RAW|WAR|WAW", "distance": "int",
        "dependent": "true|false", "class": "array|pointer",
    },
    "ALLOCATION": {
        "operation": None, "function": None, "instances": r"[A-Za-z_]\w*", "limit": "int",
    },
    "LATENCY": {"min": "int", "max": "int"},
    "INTERFACE": {
        **dict.fromkeys(_INTERFACE_MODES), "mode": "|".join(_INTERFACE_MODES), "port": "name",
        "bundle": r"[A-Za-z_]\w*", "offset": "slave|off|direct", "depth": "int", "latency": "int",
        "max_read_burst_length": "int", "max_write_burst_length": "int", "num_read_outstanding": "int",
        "num_write_outstanding": "int", "max_widen_bitwidth": "int", "register": None,
    },
}  # fmt: skip
_NEEDED = {
    "ARRAY_PARTITION": ("variable",), "ARRAY_RESHAPE": ("variable",), "BIND_STORAGE": ("variable",),
    "STREAM": ("variable",), "DEPENDENCE": ("variable",), "INTERFACE": ("port",), "ALLOCATION": ("limit",),
}  # fmt: skip
_IN_LOOP = ("PIPELINE", "UNROLL", "LOOP_TRIPCOUNT", "LOOP_FLATTEN")


def lint_source(source: Source) -> list[Finding]:
    """Everything wrong with a file's pragmas and DATAFLOW regions, in the order of its lines."""
    rules: tuple[Callable[[Source], Iterator[tuple[int, str]]], ...] = (
        _words, _places, _names, _partitions, _trip_counts, _regions,
    )  # fmt: skip
    found = [Finding(source.name, line, message) for rule in rules for line, message in rule(source)]
    return sorted(found, key=lambda finding: (finding.line, finding.message))


def _words(source: Source) -> Iterator[tuple[int, str]]:
    """Known directives, known options, values of the right kind."""
    for pragma in source.pragmas:
        options = _OPTIONS.get(pragma.directive)
        if options is None:
            hint = nearest(pragma.directive, list(_OPTIONS))
            yield pragma.line, f"directive {pragma.directive!r} is unknown{hint}"
            continue
        for key, value in pragma.options:
            if key.lower() not in options:
                yield (
                    pragma.line,
                    f"{pragma.directive} has no option {key!r}{nearest(key.lower(), list(options))}",
                )
            elif message := _wrong_value(key, value, options[key.lower()], source.constants):
                yield pragma.line, f"{pragma.directive}: {message}"
        for name in _NEEDED.get(pragma.directive, ()):
            if not pragma.has(name):
                yield pragma.line, f"{pragma.directive} lacks the option {name!r}"


def _wrong_value(
    key: str, value: str | None, pattern: str | None, constants: Mapping[str, int]
) -> str | None:
    if pattern is None:
        return None if value is None else f"option {key!r} takes no value, got {value!r}"
    if value is None or not value:
        return f"option {key!r} needs a value"
    if pattern == "int":
        fine = re.fullmatch(_INT, value) or value in constants
        return None if fine else f"option {key!r} needs an integer, got {value!r}"
    if pattern == "name":
        return None if re.fullmatch(r"[A-Za-z_]\w*", value) else f"option {key!r} needs a name, got {value!r}"
    return None if re.fullmatch(pattern, value, re.IGNORECASE) else f"option {key!r} cannot be {value!r}"


def _places(source: Source) -> Iterator[tuple[int, str]]:
    """Inside a function; what belongs to a loop as the first thing of its body."""
    for pragma in source.pragmas:
        if source.function_at(pragma.line) is None:
            yield pragma.line, f"{pragma.directive} stands outside of any function"
        elif pragma.directive in _IN_LOOP and not _opens_loop(source, pragma.line):
            yield pragma.line, f"{pragma.directive} is not at the start of a loop's body"


def _opens_loop(source: Source, line: int) -> bool:
    for text in reversed(source.lines[: line - 1]):
        stripped = text.strip()
        if not stripped or stripped.startswith("#pragma"):
            continue
        return bool(re.match(r"(?:\w+\s*:\s*)?(for|while)\b.*{$", stripped))
    return False


def _names(source: Source) -> Iterator[tuple[int, str]]:
    """Variables and ports that exist where the pragma stands."""
    for pragma in source.pragmas:
        function = source.function_at(pragma.line)
        if function is None:
            continue
        parameters = dict(function.parameters)
        variable, port = pragma.option("variable"), pragma.option("port")
        if variable and variable not in {*parameters, *function.local, *source.global_names}:
            known = [*parameters, *function.local]
            yield (
                pragma.line,
                f"variable {variable!r} is not declared in {function.name}{nearest(variable, known)}",
            )
        if pragma.directive == "INTERFACE" and port and port != "return" and port not in parameters:
            yield pragma.line, f"{function.name} has no argument {port!r}{nearest(port, list(parameters))}"


def _partitions(source: Source) -> Iterator[tuple[int, str]]:
    """Factors that divide the dimension, dimensions that exist."""
    for pragma in source.pragmas:
        function = source.function_at(pragma.line)
        if pragma.directive not in ("ARRAY_PARTITION", "ARRAY_RESHAPE") or function is None:
            continue
        variable = pragma.option("variable") or ""
        declared = function.local.get(variable) or dict(function.parameters).get(variable)
        sizes = _sizes(declared, source) if declared else None
        if sizes is None:
            continue
        dim = _number(pragma.option("dim") or "1", source)
        if dim is None or not 0 <= dim <= len(sizes):
            yield pragma.line, f"{variable!r} has {len(sizes)} dimensions, dim={pragma.option('dim')} given"
            continue
        if (pragma.option("type") or "complete") == "complete":
            continue
        factor = _number(pragma.option("factor") or "", source)
        if factor is None or factor < 1:
            yield pragma.line, f"a {pragma.option('type')} partition of {variable!r} needs a factor"
        elif dim and sizes[dim - 1] % factor:
            yield (
                pragma.line,
                f"factor {factor} does not divide dimension {dim} of {variable!r}: {sizes[dim - 1]}",
            )


def _sizes(declared: Declared, source: Source) -> tuple[int, ...] | None:
    """Extents of an array, or of the blocks of a channel; None if they are no constants."""
    texts = declared.dims
    if match := re.match(r"hls::stream_of_blocks\s*<\s*(\w+)", declared.type):
        texts = source.array_types.get(match.group(1), ())
    elif not texts:
        texts = source.array_types.get(declared.type, ())
    sizes = tuple(_number(text, source) for text in texts)
    return None if not sizes or None in sizes else tuple(size for size in sizes if size is not None)


def _number(text: str, source: Source) -> int | None:
    text = text.strip()
    return int(text) if re.fullmatch(_INT, text) else source.constants.get(text)


def _trip_counts(source: Source) -> Iterator[tuple[int, str]]:
    for pragma in source.pragmas:
        if pragma.directive == "LOOP_TRIPCOUNT":
            low, high = (_number(pragma.option(name) or "", source) for name in ("min", "max"))
            if low is not None and high is not None and low > high:
                yield pragma.line, f"LOOP_TRIPCOUNT: min {low} is above max {high}"
        if pragma.directive in ("PIPELINE", "UNROLL"):
            name = "ii" if pragma.directive == "PIPELINE" else "factor"
            value = _number(pragma.option(name) or "1", source)
            if value is not None and value < 1:
                yield pragma.line, f"{pragma.directive}: {name} must be at least 1, got {value}"


# ---- DATAFLOW regions

_CHANNEL = re.compile(r"hls::(?:stream|stream_of_blocks)\s*<")


def _regions(source: Source) -> Iterator[tuple[int, str]]:
    """One producer and consumer per channel, only channels and calls, no forks, pointers of one process."""
    functions = {function.name: function for function in source.functions}
    for pragma in source.pragmas:
        region = source.function_at(pragma.line)
        if pragma.directive != "DATAFLOW" or region is None:
            continue
        calls = list(_calls(region))
        yield from ((pragma.line, message) for message in _statements(region))
        for name in [name for name, d in region.local.items() if _CHANNEL.match(d.type)]:
            yield from ((pragma.line, message) for message in _channel_ends(name, calls, functions))
        yield from ((pragma.line, message) for message in _tree(region, calls, functions))
        for name, declared in region.parameters:
            users = [callee for callee, arguments in calls if name in arguments]
            if declared.mark == "*" and len(users) > 1:
                yield pragma.line, f"pointer {name!r} is used by {len(users)} processes of {region.name}"


def _calls(region: Function) -> Iterator[tuple[str, list[str]]]:
    body = re.sub(r"(?m)^\s*#.*$", "", region.body)
    for match in re.finditer(r"(?<![\w.:>])(\w+)\s*\(([^()]*)\)\s*;", body):
        yield match.group(1), [argument.strip() for argument in match.group(2).split(",")]


def _statements(region: Function) -> Iterator[str]:
    body = re.sub(r"(?m)^\s*#.*$", "", region.body)
    body = re.sub(r"TW_NAME\(\w+\)", "", body)
    for statement in (part.strip() for part in body.split(";")):
        is_call = re.fullmatch(r"\w+\s*\([^()]*\)", statement)
        if statement and not is_call and not _CHANNEL.match(statement):
            yield f"the DATAFLOW region {region.name} holds more than channels and calls: {statement[:40]!r}"


def _channel_ends(
    name: str, calls: list[tuple[str, list[str]]], functions: Mapping[str, Function]
) -> Iterator[str]:
    producers, consumers = [], []
    for callee, arguments in calls:
        function = functions.get(callee)
        for position, argument in enumerate(arguments):
            if argument != name or function is None or position >= len(function.parameters):
                continue
            parameter = function.parameters[position][0]
            if _uses(parameter, "write", function):
                producers.append(callee)
            if _uses(parameter, "read", function):
                consumers.append(callee)
    if len(producers) != 1:
        yield f"channel {name!r} has {len(producers)} producers, exactly 1 is needed"
    if len(consumers) != 1:
        yield f"channel {name!r} has {len(consumers)} consumers, exactly 1 is needed"
    if producers and producers == consumers:
        yield f"channel {name!r} starts and ends in {producers[0]}"


def _tree(
    region: Function, calls: list[tuple[str, list[str]]], functions: Mapping[str, Function]
) -> Iterator[str]:
    """At most one channel is written by each process.

    Then no two ways lead from one process to another, and bounded channels cannot block each other in a ring:
    what a simulation that runs process after process does not see.
    """
    channels = [name for name, declared in region.local.items() if _CHANNEL.match(declared.type)]
    for callee, arguments in calls:
        function = functions.get(callee)
        if function is None:
            continue
        pairs = zip(arguments, function.parameters, strict=False)
        written = [a for a, (name, _) in pairs if a in channels and _uses(name, "write", function)]
        if len(written) > 1:
            yield f"process {callee} writes {len(written)} channels, which may block each other: {written}"


def _uses(channel: str, way: str, function: Function) -> bool:
    """Whether a process reads or writes a channel, by a call or by a lock."""
    call = rf"\b{channel}\s*\.\s*{way}\s*\("
    lock = rf"\b{way}_lock\s*<[^;]*>\s*\w+\s*\(\s*{channel}\s*\)"
    return re.search(f"{call}|{lock}", function.body) is not None


def interfaces(source: Source, kernel: str) -> tuple[list[Finding], dict[str, str]]:
    """Findings about the top function's ports, and the bundle of every pointer argument."""
    top = next((f for f in source.functions if f.name == kernel), None)
    if top is None:
        return [Finding(source.name, 1, f"the top function {kernel!r} is not defined")], {}
    mine = [
        p for p in source.pragmas if p.directive == "INTERFACE" and top.first_line <= p.line <= top.last_line
    ]
    found: list[Finding] = []
    bundles: dict[str, str] = {}
    for name, declared in top.parameters:
        masters = [p for p in mine if p.option("port") == name and _mode(p) == "m_axi"]
        if declared.mark == "*" and len(masters) != 1:
            message = f"pointer {name!r} has {len(masters)} m_axi interfaces, exactly 1 is needed"
            found.append(Finding(source.name, top.first_line, message))
        if declared.mark == "*" and masters:
            bundles[name] = masters[0].option("bundle") or "gmem"
    for pragma in mine:
        if pragma.option("port") in bundles and _mode(pragma) == "m_axi":
            shared = [n for n, b in bundles.items() if b == bundles[str(pragma.option("port"))]]
            if len(shared) > 1 and shared[0] == pragma.option("port"):
                message = f"ports {', '.join(shared)} share a bundle: processes of a region cannot share one"
                found.append(Finding(source.name, pragma.line, message))
    if not any(p.option("port") == "return" and _mode(p) == "s_axilite" for p in mine):
        found.append(Finding(source.name, top.first_line, "no s_axilite interface for port 'return'"))
    return found, bundles


def _mode(pragma: Pragma) -> str:
    if mode := pragma.option("mode"):
        return mode
    return next((key for key, value in pragma.options if value is None and key in _INTERFACE_MODES), "")
