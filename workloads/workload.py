"""A workload: from a model file, an adapter file and the terms of a run to layer classes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from tilewright.dataflow.errors import InputError, nearest
from tilewright.dataflow.graph import Network
from tilewright.dataflow.tensor import Profile
from tilewright.workloads.adapter_plan import AdapterError
from tilewright.workloads.families import family_of
from tilewright.workloads.generation import DEFAULT_OUTPUT_TOKENS, steps, window_limits
from tilewright.workloads.gradient import GradientError
from tilewright.workloads.lengths import batch_of, ragged
from tilewright.workloads.lowering import lower
from tilewright.workloads.policy import TrainingPolicy, training_policy
from tilewright.workloads.precision import Precision
from tilewright.workloads.ragged import sequences
from tilewright.workloads.read import preset_names, read_json, read_preset
from tilewright.workloads.run import AdapterMode, AttentionForm, Logits, Lowering, Parameter, Phase, Run
from tilewright.workloads.sizes import Sizes, check_positions, check_tokens, fitted
from tilewright.workloads.transformer import EncoderDecoder, Model

if TYPE_CHECKING:
    from tilewright.workloads.adapter import Adapter


@dataclass(frozen=True)
class Workload:
    """A network of layer classes in execution order, and every parameter of the model.

    A layer class stands for `count` equal layers that follow one another. Where tokens are generated,
    `last_step` is the network of the last of them, whose cache stays behind.
    """

    name: str
    model_type: str
    run: Run
    adapter: str
    adapter_mode: AdapterMode
    network: Network
    parameters: tuple[Parameter, ...]
    last_step: Network = ()

    @property
    def tokens(self) -> int:
        """Tokens that one run computes, over the whole batch."""
        return self.run.batch * self.run.seq

    @property
    def phase(self) -> Phase:
        return self.run.phase

    @property
    def batch(self) -> int:
        return self.run.batch

    @property
    def seq(self) -> int:
        return self.run.seq

    @property
    def cache(self) -> int:
        return self.run.cache

    @property
    def precision(self) -> Precision:
        return self.run.precision

    @property
    def lowering(self) -> Lowering:
        return self.run.lowering

    @property
    def logits(self) -> Logits:
        return self.run.logits


def model_names() -> tuple[str, ...]:
    """The presets that `load_workload` knows as models."""
    return preset_names("models")


def adapter_names() -> tuple[str, ...]:
    """The methods that an adapter's preset string may start with."""
    from tilewright.workloads.adapter import adapter_names as known

    return known()


def load_workload(
    model: str | Path,
    *,
    adapter: str | Path | None = None,
    phase: str = "prefill",
    batch: int = 1,
    seq: int | None = None,
    decoder_seq: int | None = None,
    cache: int | None = None,
    image: int | None = None,
    samples: int | None = None,
    output_tokens: int | None = None,
    precision: Precision | Mapping[str, str] | None = None,
    lowering: str = "hardware",
    logits: str | None = None,
    adapter_mode: str = "unmerged",
    attention: str | None = None,
    optimizer: str | None = None,
    recompute: str | None = None,
    lengths: Mapping[int, int] | None = None,
    name: str | None = None,
    dims: Mapping[str, int | float] | None = None,
) -> Workload:
    """The workload of one phase of a model.

    model: a preset, a config.json or its folder, an .onnx file, whose symbolic dimensions `dims` binds
    besides the sizes of the run, or a .cascade, whose ranks and numbers it binds. adapter: a preset, an
    adapter_config.json or its folder; "unmerged" it runs beside the weights, "merged" it is folded into
    them, "none" leaves it out
    but for the task that it states. `seq` is the tokens computed per sequence (512 in prefill, 1 in
    decode where not stated), `cache` those that are held before. An encoder-decoder takes the encoder's
    tokens as `seq` and the decoder's as `decoder_seq` (128 in prefill, 1 in decode), one of sound the
    decoder's as either. A vision model takes the side of a square `image` in pixels instead, one of
    waves the number of `samples`. The phase `generate` takes a prompt's tokens as `seq` (an encoder's, where
    there is one) and computes `output_tokens` (128). `logits` is
    "last" in the hardware's lowering of a decoder and else "all" where not stated. `attention` is "three_pass",
    "one_pass", or a cascade from Q, K and V to AV, by name or file, whose own ranks `dims` binds. A training
    step ends in the updates of an `optimizer` ("none", "sgd", "momentum", "adam", "adamw", "adam8bit"; AdamW where not
    stated) and may `recompute` activations in the backward pass: "none", all of a "layer", or what
    "attention" has for pairs of tokens. `lengths` stand in the place of `batch` and `seq`, in decode of
    `cache`: how many sequences have so many tokens.
    Raises InputError for anything wrong in the files or the terms.
    """
    training = training_policy(phase, optimizer, recompute)
    if lengths is not None and str(model).lower().endswith((".cascade", ".onnx")):
        raise InputError(f"{model}: lengths: the file takes sequences of one length")
    each = batch_of(lengths, phase, batch, seq, cache)
    if str(model).lower().endswith(".cascade"):
        stated_terms = {
            "adapter": adapter, "batch": batch if batch != 1 else None, "seq": seq, "decoder_seq": decoder_seq,
            "cache": cache, "image": image, "samples": samples, "output_tokens": output_tokens,
            "logits": logits, "attention": attention,
        }  # fmt: skip
        return _from_cascade(str(model), dims, Precision.of(precision), phase, lowering, stated_terms, name)
    if phase == "generate":
        return _generated(
            model, output_tokens, cache, adapter=adapter, batch=batch, seq=seq, decoder_seq=decoder_seq,
            image=image, samples=samples, precision=precision, lowering=lowering, logits=logits or "last",
            adapter_mode=adapter_mode, attention=attention, name=name, dims=dims,
        )  # fmt: skip
    if output_tokens is not None:
        raise InputError(f"output_tokens belong to the phase generate, got phase {phase!r}")
    if str(model).lower().endswith(".onnx"):
        onnx_sizes = Sizes(batch, seq, decoder_seq, cache, image)
        onnx_terms = _Terms(phase, lowering, logits, attention or "three_pass")
        return _from_onnx(Path(model), onnx_terms, onnx_sizes, precision, adapter, name, dims)
    if dims and attention in (None, "three_pass"):
        raise InputError(f"dims bind dimensions of an .onnx file, {str(model)!r} is none, and no .cascade")
    sizes = Sizes(each.n_sequences, each.seq, decoder_seq, each.cache, image, samples)
    terms = _Terms(phase, lowering, logits, attention or "three_pass")
    stated = _Stated(adapter, adapter_mode, attention, training, tuple((dims or {}).items()), each.profile)
    return _from_config(model, terms, sizes, Precision.of(precision), stated, name)


@dataclass(frozen=True, slots=True)
class _Stated:
    """What a caller states of a model's own file besides terms and sizes."""

    adapter: str | Path | None
    adapter_mode: str
    attention: str | None
    training: TrainingPolicy
    attention_sizes: tuple[tuple[str, int | float], ...]
    profile: Profile | None


def _from_config(
    model: str | Path, terms: "_Terms", sizes: Sizes, precision: Precision, stated: _Stated, name: str | None
) -> Workload:
    """The workload of a preset or a configuration file."""
    values, source, model_name = _model_values(model)
    model_type, family = family_of(values, source)
    adapter = _read_adapter(stated.adapter)
    spec = family.read(values, source, adapter.task if adapter else "")
    spec, run = _run(spec, terms, sizes, precision, source)
    run = replace(run, training=stated.training, attention_sizes=stated.attention_sizes)
    _check_choice("adapter_mode", stated.adapter_mode, get_args(AdapterMode))
    mode = cast(AdapterMode, stated.adapter_mode if adapter else "none")
    plan = adapter.plan(spec, family.targets) if adapter else None
    adapted = plan.adjusted(run) if plan else run
    check_positions(spec, adapted.seq, adapted.cache, source)
    adapted, run = (ragged(spec, one, stated.profile, source) for one in (adapted, run))
    try:
        network, parameters = lower(spec, adapted, plan)
    except AdapterError as error:
        raise InputError(f"{adapter.source if adapter else source}: {error}") from None
    except GradientError as error:
        raise InputError(f"{source}: phase train: {error}") from None
    if stated.attention and not any(
        op.group == "attention" for layer in network for op in layer.graph.operators
    ):
        raise InputError(f"{source}: attention {stated.attention!r}: {model_type} has no attention")
    if plan and mode != "unmerged":  # lowered with the adapter all the same: a wrong one is refused
        network, parameters = lower(spec, run, None)
    if mode == "merged":
        parameters = tuple(replace(parameter, trainable=False) for parameter in parameters)
    label = name or _label(model_name, run)
    return Workload(label, model_type, run, str(stated.adapter or ""), mode, network, parameters)


def _from_cascade(
    model: str,
    dims: Mapping[str, int | float] | None,
    precision: Precision,
    phase: str,
    lowering: str,
    refused: Mapping[str, object],
    name: str | None,
) -> Workload:
    """The workload of a cascade; what parses one is imported only for one."""
    from tilewright.workloads.cascade_workload import load_cascade_workload

    label, run, network, parameters = load_cascade_workload(model, dims, precision, phase, lowering, refused)
    return Workload(name or label, "cascade", run, "", "none", network, parameters)


def _from_onnx(
    file: Path,
    terms: "_Terms",
    sizes: Sizes,
    precision: Precision | Mapping[str, str] | None,
    adapter: str | Path | None,
    name: str | None,
    dims: Mapping[str, int | float] | None,
) -> Workload:
    """The workload of an ONNX file; what reads such files is imported only for one."""
    from tilewright.workloads.onnx_dims import OnnxTerms
    from tilewright.workloads.onnx_workload import load_onnx

    refused = {
        "adapter": adapter,
        "logits": "last" if terms.logits == "last" else "",
        "attention": "" if terms.attention == "three_pass" else terms.attention,
    }
    onnx_terms = OnnxTerms(sizes.batch, sizes.seq, sizes.decoder_seq, sizes.cache, sizes.image, dims)
    run, network, parameters = load_onnx(
        file, onnx_terms, Precision.of(precision), terms.phase, terms.lowering, refused
    )
    return Workload(name or _label(file.stem, run), "onnx", run, "", "none", network, parameters)


def _generated(model: str | Path, output_tokens: int | None, cache: int | None, **terms: Any) -> Workload:
    """The prompt's run and the steps behind it as one workload.

    Steps are classes at the lengths of the cache that `steps` chooses. Raises InputError for a model that
    generates nothing, and for tokens that it has no positions for.
    """
    n_output = check_tokens(
        "output_tokens", DEFAULT_OUTPUT_TOKENS if output_tokens is None else output_tokens
    )
    if cache:
        raise InputError(f"phase generate holds no tokens before the prompt, got cache {cache}")
    if str(model).lower().endswith(".onnx"):
        raise InputError(f"{model}: phase 'generate' of an .onnx file is not supported")
    values, source, model_name = _model_values(model)
    spec = family_of(values, source)[1].read(values, source, "")
    if not spec.decodes:
        raise InputError(f"{source}: {spec.model_type} is an encoder: it generates no tokens")
    text = isinstance(spec, EncoderDecoder) and spec.encoder_tokens is None
    if isinstance(spec, EncoderDecoder):
        terms["decoder_seq"] = terms["decoder_seq"] or 1
    prompt = load_workload(model, phase="prefill", **terms)
    terms["decoder_seq"], encoder_seq = None, prompt.run.encoder_seq or None
    terms["seq"] = encoder_seq if text else None
    n_prompt = prompt.run.seq - prompt.run.n_prompt
    extra = prompt.run.n_prompt + prompt.run.n_prefix
    held = steps(n_prompt, n_output, tuple(limit - extra for limit in window_limits(spec, prompt.run)))
    network, last = list(prompt.network), prompt.network
    for length, n_steps in held:
        step = load_workload(model, phase="decode", cache=length, **terms)
        network += [
            replace(
                layer,
                name=f"step{length}_{layer.name}",
                count=layer.count * n_steps,
                shares=layer.name,
            )
            for layer in step.network
        ]
    if held:
        last = load_workload(model, phase="decode", cache=n_prompt + n_output - 2, **terms).network
    run = replace(prompt.run, phase="generate", n_output=n_output)
    label = terms["name"] or f"{_label(model_name, run)} -> {n_output}"
    return replace(prompt, name=label, run=run, network=tuple(network), last_step=last)


def _read_adapter(adapter: str | Path | None) -> "Adapter | None":
    """The adapter stated; its modules are imported only for one."""
    if adapter is None:
        return None
    from tilewright.workloads.adapter import read_adapter

    return read_adapter(adapter)


def _label(model: str, run: Run) -> str:
    """A workload's name where the user gives none, e.g. `gpt2 decode 1x1+1024`."""
    if run.lengths:
        parts = [
            f"{part.run.batch}x{part.run.seq}" + (f"+{part.run.cache}" if part.run.cache else "")
            for part in sequences(run)
        ]
        return f"{model} {run.phase} {' '.join(parts[:3])}" + (" ..." if len(parts) > 3 else "")
    cache = f"+{run.cache}" if run.cache else ""
    return f"{model} {run.phase} {run.batch}x{run.seq}{cache}"


def _model_values(model: str | Path) -> tuple[dict[str, Any], str, str]:
    """The fields of a model, where they come from, and the model's name."""
    known = model_names()
    if str(model) in known:
        return read_preset("models", str(model)), f"preset {model}", str(model)
    file = Path(model)
    if file.is_dir():
        file = file / "config.json"
    elif not file.exists() and not file.suffix and len(file.parts) == 1:
        raise InputError(
            f"model {str(model)!r} is neither a preset{nearest(str(model), known)} nor a file;"
            f" presets: {', '.join(known)}"
        )
    name = file.parent.name if file.name == "config.json" and file.parent.name else file.stem
    return read_json(file), str(file), name


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a caller states of a run besides sizes, not checked yet."""

    phase: str
    lowering: str
    logits: str | None
    attention: str


def _run(model: Model, terms: _Terms, sizes: Sizes, precision: Precision, source: str) -> tuple[Model, Run]:
    """The model at the sizes stated, and the checked run.

    Raises InputError that names the term, its limit and its value.
    """
    generates = model.decodes and terms.phase != "train"  # a loss is of all tokens
    default = "last" if terms.lowering == "hardware" and generates else "all"
    logits = terms.logits or default
    _check_choice("phase", terms.phase, get_args(Phase))
    _check_choice("lowering", terms.lowering, get_args(Lowering))
    _check_choice("logits", logits, get_args(Logits))
    _check_attention(terms.attention)
    phase = cast(Phase, terms.phase)
    model, seq, encoder_seq = fitted(model, phase, sizes, source)
    if not model.decodes and logits == "last":
        raise InputError(f"{source}: logits 'last': {model.model_type} is an encoder, all its tokens count")
    run = Run(
        phase, sizes.batch, seq, sizes.cache or 0, precision, cast(Lowering, terms.lowering),
        cast(Logits, logits), terms.attention, encoder_seq,
    )  # fmt: skip
    return model, run


def _check_attention(attention: str) -> None:
    """Raises InputError unless it is a form, the name of a cascade or a file of one."""
    if not attention.endswith(".cascade"):
        from tilewright.dataflow.cascade import cascade_names

        _check_choice("attention", attention, (*get_args(AttentionForm), *cascade_names()))


def _check_choice(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(
            f"{field} {value!r} is unknown{nearest(str(value), known)}; known: {', '.join(known)}"
        )


__all__ = ["Workload", "adapter_names", "load_workload", "model_names"]
