"""The command line: parse, call `tilewright.api`, print. Exit status: 0 done, 1 a check failed,
2 wrong input (one line on standard error), 130 interrupted."""

import json
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

app = typer.Typer(
    name="tilewright",
    help="Simulate and co-design accelerators for transformers and adapters.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
cascade_app = typer.Typer(help="Work with cascades: attention variants and adapters as text.")
app.add_typer(cascade_app, name="cascade")

# typer carries its own copy of click or imports it, by version; this is its base of usage errors.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

Model = Annotated[
    str, typer.Argument(help="preset, config.json or its folder, .onnx, .cascade, or a WORKLOAD.yaml")
]
Adapter = Annotated[
    str | None, typer.Option(help="preset (lora:r=16,targets=q+v), adapter_config.json or its folder")
]
AdapterMode = Annotated[str | None, typer.Option(help="unmerged (default), merged or none")]
Phase = Annotated[
    str | None, typer.Option(help="prefill (default), decode, generate, train, prefill:encoder ...")
]
Batch = Annotated[int | None, typer.Option(min=1, help="sequences, default 1")]
Seq = Annotated[int | None, typer.Option(min=1, help="tokens; default 512, in decode 1")]
DecoderSeq = Annotated[int | None, typer.Option(min=1, help="decoder tokens of an encoder-decoder")]
Image = Annotated[int | None, typer.Option(min=1, help="side of a square image in pixels")]
Samples = Annotated[int | None, typer.Option(min=1, help="samples of sound")]
OutputTokens = Annotated[int | None, typer.Option(min=1, help="tokens to generate, for phase generate")]
Dims = Annotated[
    list[str] | None,
    typer.Option("--dim", help="symbolic dimension of an ONNX file or rank of a cascade, NAME=n"),
]
Cache = Annotated[int | None, typer.Option(min=0, help="tokens in the KV cache before the step")]
Lowering = Annotated[
    str | None, typer.Option(help="reference (as executed) or hardware (factored, masked tiles skipped)")
]
Logits = Annotated[str | None, typer.Option(help="all or last positions; default by lowering")]
Attention = Annotated[
    str | None, typer.Option(help="three_pass (default), one_pass, or a cascade's name or file")
]
Lengths = Annotated[
    str | None,
    typer.Option(help="LENGTH:SEQUENCES,...: tokens of each sequence, in decode tokens held by each"),
]
Optimizer = Annotated[
    str | None, typer.Option(help="of a training step: adamw (default), adam8bit, momentum, sgd, none")
]
Recompute = Annotated[str | None, typer.Option(help="in a training step: none (default), attention or layer")]
Json = Annotated[bool, typer.Option("--json", help="one JSON object on standard output, nothing else")]
Out = Annotated[Path, typer.Option(help="folder for the results")]
Workers = Annotated[int, typer.Option(min=1, help="processes")]


class Listing(StrEnum):
    MODELS = "models"
    ADAPTERS = "adapters"
    CASCADES = "cascades"
    TEMPLATES = "templates"
    DEVICES = "devices"
    MEMORIES = "memories"
    CASES = "cases"


class ValidationSet(StrEnum):
    COUNTS = "counts"
    DRAM = "dram"
    ARRAYS = "arrays"
    HARDWARE = "hardware"
    SYNTH = "synth"
    ALL = "all"


class Fidelity(StrEnum):
    BOUND = "bound"
    TILE = "tile"


class MapObjective(StrEnum):
    LATENCY = "latency"
    ENERGY = "energy"
    EDP = "edp"
    MIX = "mix"


class MapTiles(StrEnum):
    DIVISORS = "divisors"
    REMAINDERS = "remainders"
    ALL = "all"


class Level(StrEnum):
    LINT = "lint"
    CSIM = "csim"
    RTL = "rtl"
    SYNTH = "synth"
    ALL = "all"


@app.command("list")
def list_(what: Listing, as_json: Json = False) -> None:
    """Print what is known by name.

    Example: tilewright list devices
    """
    from tilewright import listing

    rows = listing.rows(what.value)
    _emit({what.value: rows}, as_json, lambda: listing.table(rows))


@app.command()
def count(
    model: Model,
    adapter: Adapter = None,
    adapter_mode: AdapterMode = None,
    phase: Phase = None,
    batch: Batch = None,
    seq: Seq = None,
    decoder_seq: DecoderSeq = None,
    image: Image = None,
    samples: Samples = None,
    output_tokens: OutputTokens = None,
    dim: Dims = None,
    cache: Cache = None,
    lowering: Lowering = None,
    logits: Logits = None,
    attention: Attention = None,
    lengths: Lengths = None,
    optimizer: Optimizer = None,
    recompute: Recompute = None,
    as_json: Json = False,
) -> None:
    """Count parameters, operations and bytes.

    Example: tilewright count gpt2-medium --adapter lora:r=16
    """
    from tilewright import api, runs, tables

    stated = _terms(locals())
    workload = api.workload_of(*runs.workload_file(model, stated), lowering="reference")
    counts = api.count(workload).to_dict()
    _emit(counts, as_json, lambda: tables.counts(workload.name, counts))


@app.command()
def simulate(
    model: Annotated[str | None, typer.Argument(help="model, or a WORKLOAD.yaml")] = None,
    design: Annotated[Path | None, typer.Option(help="DESIGN.yaml; it names its workload")] = None,
    adapter: Adapter = None,
    adapter_mode: AdapterMode = None,
    phase: Phase = None,
    batch: Batch = None,
    seq: Seq = None,
    decoder_seq: DecoderSeq = None,
    image: Image = None,
    samples: Samples = None,
    output_tokens: OutputTokens = None,
    dim: Dims = None,
    cache: Cache = None,
    lowering: Lowering = None,
    logits: Logits = None,
    attention: Attention = None,
    lengths: Lengths = None,
    optimizer: Optimizer = None,
    recompute: Recompute = None,
    template: Annotated[str | None, typer.Option(help="family, default sequential")] = None,
    device: Annotated[str | None, typer.Option(help="device, default u280")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="parameter of the template, k=v, or @FILE of calibrate")
    ] = None,
    fidelity: Annotated[Fidelity, typer.Option(help="bound or tile")] = Fidelity.TILE,
    explain: Annotated[bool, typer.Option(help="what one more step of each parameter gains")] = False,
    trace: Annotated[Path | None, typer.Option(help="write a Chrome/Perfetto timeline here")] = None,
    as_json: Json = False,
) -> None:
    """Simulate a workload on a design.

    Example: tilewright simulate gpt2-medium --device u280 --set rows=32
    """
    from tilewright import runs, tables

    stated = _terms(locals())
    if design is None:
        run = runs.from_options(model, stated, template, device, set_)
    else:
        stated |= {"MODEL": model, "template": template, "device": device}
        if given := [name for name, value in stated.items() if value is not None]:
            _fail(f"--design names the whole run; {given[0]} cannot be given beside it")
        run = runs.from_file(design, set_)
    report = run.simulate(fidelity.value, memory_detail=as_json or explain)
    answer = report.to_dict()
    if trace is not None:
        run.write_trace(trace)
    if explain:
        answer["explain"] = run.explain(report)
    _emit(answer, as_json, lambda: tables.report(report, answer.get("explain")))


@app.command()
def sweep(
    study: Annotated[Path, typer.Argument(help="STUDY.yaml with `axes`")],
    out: Out,
    workers: Workers = 1,
    as_json: Json = False,
) -> None:
    """Evaluate every combination of a study's axes.

    Example: tilewright sweep STUDY.yaml --out out/sweep
    """
    from tilewright import api, tables

    answer = api.sweep(api.Study.load(study), out, workers=workers)
    _emit(answer, as_json, lambda: tables.sweep(answer))


@app.command()
def codesign(
    study: Annotated[Path, typer.Argument(help="STUDY.yaml")],
    out: Out,
    evaluations: Annotated[int | None, typer.Option(min=1, help="instead of the study's")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="instead of the study's")] = None,
    workers: Workers = 1,
    resume: Annotated[bool, typer.Option(help="go on with the study that stands in --out")] = False,
    as_json: Json = False,
) -> None:
    """Search for the Pareto front.

    Example: tilewright codesign examples/gpt2_medium_lora.yaml --out out/gpt2
    """
    from tilewright import jobs, tables
    from tilewright.files import StudyFile

    answer = jobs.run(
        StudyFile.load(study),
        out,
        evaluations=evaluations,
        seed=seed,
        workers=workers,
        resume=resume,
        quiet=as_json,
    )
    _emit(answer, as_json, lambda: tables.codesign(answer))
    if answer["failed_checks"]:
        raise typer.Exit(1)


@app.command()
def generate(
    design: Annotated[Path, typer.Argument(help="DESIGN.yaml")],
    out: Out,
    as_json: Json = False,
) -> None:
    """Write the HLS project of one design.

    Example: tilewright generate DESIGN.yaml --out out/hls
    """
    from tilewright import runs, tables

    answer = runs.from_file(design, None).generate(out)
    _emit(answer, as_json, lambda: tables.generated(answer))


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="folder that `generate` wrote")],
    level: Annotated[Level, typer.Option(help="lint, csim, rtl, synth or all")] = Level.ALL,
    as_json: Json = False,
) -> None:
    """Check a generated project.

    Example: tilewright verify out/hls --level csim
    """
    from tilewright import api, tables

    checks = api.verify(folder, level.value)
    _emit({"checks": checks}, as_json, lambda: tables.checks(checks))
    if any(check["verdict"] == "failed" for check in checks):
        raise typer.Exit(1)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="folder of a study")],
    out: Annotated[
        Path | None, typer.Option(help="folder for page and figures; default: the study's")
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw figures and page again from stored results.

    Example: tilewright report out/gpt2_medium_lora
    """
    from tilewright import jobs, tables

    answer = jobs.draw(folder, out or folder)
    _emit(answer, as_json, lambda: tables.files(answer))


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="`simulate --json` output or DESIGN.yaml")],
    second: Annotated[Path, typer.Argument(help="`simulate --json` output or DESIGN.yaml")],
    as_json: Json = False,
) -> None:
    """Show the difference of two reports or designs by component.

    Example: tilewright compare a.json b.json
    """
    from tilewright import runs, tables

    answer = runs.compare(first, second)
    _emit(answer, as_json, lambda: tables.comparison(answer))


@app.command()
def validate(
    what: Annotated[ValidationSet, typer.Argument(help="which models")],
    points: Annotated[Path | None, typer.Option(help="a CSV of reference points; default: our own")] = None,
    out: Annotated[Path | None, typer.Option(help="write sets.csv and points.csv here")] = None,
    as_json: Json = False,
) -> None:
    """Compare our figures with reference points.

    Example: tilewright validate counts --points golden_counts.csv
    """
    from tilewright import tables, validation

    answer = validation.validate(what.value, points, out)
    _emit(answer, as_json, lambda: tables.rows("validation", validation.table_of(answer)))


@app.command()
def reproduce(
    case: Annotated[str, typer.Argument(help="a case of `tilewright list cases`")],
    out: Annotated[Path | None, typer.Option(help="write tables and a figure here")] = None,
    as_json: Json = False,
) -> None:
    """Simulate a published system from its configuration, its figures beside ours.

    Example: tilewright reproduce fusemax --out out/fusemax
    """
    from tilewright import reproduction, tables

    answer = reproduction.run(case, out)
    _emit(answer, as_json, lambda: tables.reproduction(answer))
    if not all(claim["holds"] for claim in answer["claims"]):
        raise typer.Exit(1)


@app.command()
def calibrate(
    points: Annotated[Path, typer.Argument(help="a CSV of measurements")],
    template: Annotated[str, typer.Option(help="gpu_like or systolic_ws")],
    device: Annotated[str, typer.Option(help="the device that was measured")],
    out: Annotated[Path, typer.Option(help="write the constants here, and a figure beside them")],
    folds: Annotated[int, typer.Option(min=2, help="parts for cross-validation")] = 5,
    as_json: Json = False,
) -> None:
    """Fit the named constants of a template to measurements.

    Example: tilewright calibrate mine.csv --template gpu_like --device a100_80gb --out a100.yaml
    """
    from tilewright import calibration_files, tables

    answer = calibration_files.run(points, template, device, out, folds)
    _emit(answer, as_json, lambda: tables.calibration(answer))


@app.command("map")
def map_(
    hierarchy: Annotated[Path, typer.Argument(help="YAML of levels, from the backing store inwards")],
    gemm: Annotated[str | None, typer.Option(help="a product MxNxK")] = None,
    model: Annotated[str | None, typer.Option(help="model, or a WORKLOAD.yaml; with --op")] = None,
    op: Annotated[
        str | None, typer.Option(help="which contraction of the model; without it a whole layer")
    ] = None,
    adapter: Adapter = None,
    phase: Phase = None,
    batch: Batch = None,
    seq: Seq = None,
    cache: Cache = None,
    objective: Annotated[MapObjective, typer.Option(help="what is minimised")] = MapObjective.LATENCY,
    weights: Annotated[
        tuple[float, float], typer.Option(help="of a cycle and of a pJ, for objective mix")
    ] = (1.0, 1.0),
    tiles: Annotated[MapTiles, typer.Option(help="which tile sizes are tried")] = MapTiles.DIVISORS,
    mapping: Annotated[Path | None, typer.Option(help="YAML of a mapping to price instead")] = None,
    as_json: Json = False,
) -> None:
    """Map a contraction onto a declared hierarchy; the answer is certified to be the best of the space.

    Example: tilewright map examples/hierarchies/h3.yaml --gemm 1024x4096x1024 --objective energy
    """
    from tilewright import maps, tables

    terms = {"adapter": adapter, "phase": phase, "batch": batch, "seq": seq, "cache": cache}
    if model is not None and op is None and gemm is None and mapping is None:
        answer, text = maps.map_layer_of(hierarchy, model, terms, objective.value, tiles.value)
        _emit(answer, as_json, lambda: tables.layer_mapping(answer, text))
        return
    problem = maps.problem_of(gemm, model, op, terms)
    answer, text = maps.map_contraction(hierarchy, problem, objective.value, tiles.value, mapping, weights)
    _emit(answer, as_json, lambda: tables.mapping(answer, text))


@cascade_app.command("check")
def cascade_check(
    file: Annotated[str, typer.Argument(help="a .cascade file or a shipped name")],
    dim: Annotated[
        list[str] | None, typer.Option("--dim", "--set", help="size of a rank, offset or parameter, NAME=n")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", "--out", help="draw it here, .svg or .png")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a cascade, print what it costs and draw it.

    Example: tilewright cascade check attention_one_pass --dim m=512 --picture one_pass.svg
    """
    from tilewright import cascades, tables

    answer = cascades.check(file, dim, picture)
    _emit(answer, as_json, lambda: tables.cascade(answer))


#: Options of `count` and `simulate` that are fields of a WORKLOAD.yaml.
_TERMS = (
    "adapter", "adapter_mode", "phase", "batch", "seq", "decoder_seq", "image", "samples",
    "output_tokens", "cache", "lowering", "logits", "attention", "optimizer", "recompute",
)  # fmt: skip


def _terms(given: dict[str, Any]) -> dict[str, Any]:
    """The terms of a workload among a command's arguments, None where not given."""
    from tilewright import runs

    counted = {"dims": runs.dimensions(given["dim"]), "lengths": runs.histogram(given["lengths"])}
    return {name: given[name] for name in _TERMS} | counted


def _emit(answer: dict[str, Any], as_json: bool, show: Any) -> None:
    if as_json:
        print(json.dumps(answer, indent=2, allow_nan=False))
    else:
        show()


def _fail(message: str) -> NoReturn:
    from tilewright.dataflow.errors import InputError

    raise InputError(message)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    signal.signal(signal.SIGINT, _interrupt)
    sys.exit(run(arguments))


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    """The first interrupt ends the run; those that follow must not break its tidying up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def run(arguments: list[str] | None) -> int:
    """Run the command line; returns the exit status. Whatever is wrong is one line on standard error."""
    from tilewright.dataflow.errors import InputError

    if sys.stdout is None:
        return _one_line("standard output is closed", 2)
    try:
        answer = app(arguments, standalone_mode=False)
    except _UsageError as error:
        return _one_line(getattr(error, "format_message", error.__str__)(), 2)
    except InputError as error:
        return _one_line(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        return _one_line("interrupted", INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        return _one_line(f"{name}{error.strerror or error}", 2)
    except RecursionError:
        return _one_line("the input is nested too deeply", 2)
    if answer == INTERRUPTED:  # typer's own way to end on an interrupt
        return _one_line("interrupted", INTERRUPTED)
    return answer if isinstance(answer, int) else 0


INTERRUPTED = 130


def _one_line(message: str, status: int) -> int:
    if sys.stderr is None:
        return status
    print(f"tilewright: {' '.join(message.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
