"""All adapter methods by the name that files give them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from tilewright.dataflow.errors import InputError
from tilewright.workloads.adapter_file import (
    HEADS_BY_TASK,
    AdaLoraFile,
    AdapterFile,
    BoftFile,
    BottleneckFile,
    CirculantFile,
    FourierFile,
    GloraFile,
    HiraFile,
    HraFile,
    Ia3File,
    LohaFile,
    LokrFile,
    LoraFile,
    MissFile,
    NormFile,
    OftFile,
    PrefixFile,
    PromptFile,
    PromptNetworkFile,
    RandLoraFile,
    RoadFile,
    ShiraFile,
    TokensFile,
    TunerFile,
    VectorBankFile,
    VeraFile,
    WaveFile,
)
from tilewright.workloads.adapter_plan import Change, Trained, TunerPlan
from tilewright.workloads.attention import Attention
from tilewright.workloads.block import Block
from tilewright.workloads.bottleneck import Bottleneck, BottleneckPlan, KroneckerBottleneck
from tilewright.workloads.builder import Module
from tilewright.workloads.butterfly import Butterfly
from tilewright.workloads.circulant import Circulant
from tilewright.workloads.embedding import Embedding
from tilewright.workloads.invertible import Coupling, CouplingPlan
from tilewright.workloads.lora import Dora, Lora, lora_scale
from tilewright.workloads.lowering import AdapterPlan
from tilewright.workloads.orthogonal import BlockRotation
from tilewright.workloads.prompt_networks import NetworkPlan
from tilewright.workloads.prompts import PassivePlan, PrefixPlan, PromptPlan
from tilewright.workloads.reflections import Reflections
from tilewright.workloads.shared_bases import BankPlan, RandomBases, VectorBank
from tilewright.workloads.targets import Targets, by_pattern, check_pattern
from tilewright.workloads.transformer import Model, Transformer
from tilewright.workloads.tuners import (
    AdaLora,
    Hadamard,
    Kronecker,
    PlaneRotation,
    Rescale,
    ShardSum,
    SparseDelta,
    Spectrum,
    Vera,
)
from tilewright.workloads.wavelets import Wavelets
from tilewright.workloads.weight_updates import BlockAffine, GeneralUpdate, HadamardProduct

F = TypeVar("F", bound=AdapterFile)


@dataclass(frozen=True, slots=True)
class Site:
    """Where an adapter goes: the model, its modules by logical target, what is asked of them."""

    model: Model
    targets: Mapping[str, str | tuple[str, ...]]
    source: str
    logical: tuple[str, ...] = ()

    def modules(self, logical: tuple[str, ...]) -> tuple[str, ...]:
        """Module paths of logical targets, each once: a fused module stands for all of its parts."""
        for target in logical:
            if target not in self.targets:
                raise InputError(
                    f"{self.source}: {self.model.model_type} has no module for target {target!r};"
                    f" it has {', '.join(self.targets)}"
                )
        stated = [self.targets[target] for target in logical]
        each = [(modules,) if isinstance(modules, str) else modules for modules in stated]
        return tuple(dict.fromkeys(module for modules in each for module in modules))

    def check_rank(self, rank: int) -> None:
        if rank > self.model.width:
            raise InputError(
                f"{self.source}: r must be at most the model's width {self.model.width}, got {rank}"
            )


@dataclass(frozen=True, slots=True)
class AdapterMethod(Generic[F]):
    """One `peft_type`: the fields of its file, and what a file does to a model."""

    file: type[F]
    plan: Callable[[F, Site], AdapterPlan]


def _trained(file: AdapterFile, bias: str = "none") -> Trained:
    heads = HEADS_BY_TASK.get(file.task_type or "", ())
    return Trained(bias, (*(file.modules_to_save or ()), *heads))


def _always(change: Change) -> Callable[[Module, str], Change]:
    """The same change for every targeted module."""
    return lambda _module, _path: change


def _tuner(
    file: TunerFile,
    site: Site,
    change: Callable[[Module, str], Change],
    *,
    default: tuple[str, ...] = ("q", "v"),
    patterns: Mapping[str, object] | None = None,
    trained: Trained | None = None,
) -> TunerPlan:
    """The plan of a method that changes modules; `default` are its targets where the file names none."""
    for field in ("target_modules", "exclude_modules"):
        if isinstance(pattern := getattr(file, field), str):
            check_pattern(pattern, field, site.source)
    modules = site.modules(site.logical or default) if file.target_modules is None else ()
    targets = file.targets(modules, site.model.stacks)
    plan = TunerPlan(site.source, site.model.model_type, targets, change, trained or _trained(file))
    return replace(plan, patterns=tuple(patterns or ()), old_path=site.model.old_path)


def _lora(file: LoraFile, site: Site) -> TunerPlan:
    ranks, alphas = file.rank_pattern or {}, file.alpha_pattern or {}
    for rank in (file.r, *ranks.values()):
        site.check_rank(rank)
    for field, patterns in (("rank_pattern", ranks), ("alpha_pattern", alphas)):
        for pattern in patterns:
            check_pattern(pattern, field, site.source)
    trained = replace(_trained(file, file.bias), tokens=tuple(file.trained_tokens.items()))
    kind = Dora if file.use_dora else Lora

    def change(module: Module, path: str) -> Lora:
        rank = by_pattern(ranks, path, file.r)
        scale = lora_scale(by_pattern(alphas, path, file.lora_alpha), rank, file.use_rslora)
        return kind(rank, scale, file.lora_bias and module.kind != "embedding")

    return _tuner(file, site, change, patterns={**ranks, **alphas}, trained=trained)


def _adalora(file: AdaLoraFile, site: Site) -> TunerPlan:
    site.check_rank(file.init_r)
    change = AdaLora(file.init_r, file.lora_alpha / file.init_r)
    return _tuner(file, site, _always(change), trained=_trained(file, file.bias))


def _ia3(file: Ia3File, site: Site) -> TunerPlan:
    stated = file.feedforward_modules
    if stated is None:
        stated = list(site.modules(("down",)))
    if isinstance(stated, str):
        check_pattern(stated, "feedforward_modules", site.source)
    inward = Targets(stated if isinstance(stated, str) else tuple(stated))
    return _tuner(
        file, site, lambda module, path: Rescale(inward.match(module, path)), default=("k", "v", "down")
    )


def _vera(file: VeraFile, site: Site) -> TunerPlan:
    change = Vera(file.r)
    return _tuner(file, site, _always(change), trained=_trained(file, file.bias))


def _shira(file: ShiraFile, site: Site) -> TunerPlan:
    site.check_rank(file.r)
    change = SparseDelta(file.r)
    return _tuner(file, site, _always(change))


def _lokr(file: LokrFile, site: Site) -> TunerPlan:
    ranks = file.rank_pattern or {}
    for pattern in ranks:
        check_pattern(pattern, "rank_pattern", site.source)

    def change(_module: Module, path: str) -> Kronecker:
        return Kronecker(by_pattern(ranks, path, file.r), file.decompose_factor, file.decompose_both)

    return _tuner(file, site, change, patterns=ranks)


def _boft(file: BoftFile, site: Site) -> TunerPlan:
    change = Butterfly(file.boft_block_size, file.boft_block_num, file.boft_n_butterfly_factor)
    return _tuner(file, site, _always(change), trained=_trained(file, file.bias))


def _hra(file: HraFile, site: Site) -> TunerPlan:
    site.check_rank(file.r)
    change = Reflections(file.r, file.apply_GS)
    return _tuner(file, site, _always(change), trained=_trained(file, file.bias))


def _vector_bank(file: VectorBankFile, site: Site) -> TunerPlan:
    site.check_rank(file.r)
    change = VectorBank(file.r, file.num_vectors, file.vector_length, file.topk)
    plan = _tuner(file, site, _always(change), trained=_trained(file, file.bias))
    return BankPlan(**vars(plan), n_shared=file.num_vectors * file.vector_length)


def _randlora(file: RandLoraFile, site: Site) -> TunerPlan:
    change = RandomBases(file.r)
    return _tuner(file, site, _always(change), trained=_trained(file, file.bias))


def _circulant(file: CirculantFile, site: Site) -> TunerPlan:
    sizes = file.block_size_pattern or {}
    for pattern in sizes:
        check_pattern(pattern, "block_size_pattern", site.source)

    def change(_module: Module, path: str) -> Circulant:
        return Circulant(by_pattern(sizes, path, file.block_size))

    return _tuner(file, site, change, patterns=sizes, trained=_trained(file, file.bias))


def _bottleneck(file: BottleneckFile, site: Site) -> TunerPlan:
    """Sequential ones stand behind attention and network, Pfeiffer's behind the network alone."""
    if file.style == "invertible":
        return _invertible(file, site)
    rank, beside = file.r or 64, file.style in ("parallel", "adaptformer")
    change: Change = Bottleneck(rank, file.function, beside, site.modules(("down",)) if beside else ())
    if file.style == "compacter":
        change = KroneckerBottleneck(rank, file.function, file.n, file.q)
    default = ("up", "down") if beside else ("down",) if file.style == "pfeiffer" else ("o", "down")
    plan = _tuner(file, site, _always(change), default=default)
    return BottleneckPlan(**vars(plan), n_shared=file.n**3 if file.style == "compacter" else 0)


def _invertible(file: BottleneckFile, site: Site) -> CouplingPlan:
    """At the ends of the model; a quarter of its width is the rank where none is stated."""
    if file.layers_to_transform is not None:
        raise InputError(f"{site.source}: layers: an invertible bottleneck is in no layer")
    if not isinstance(site.model, Transformer) or not isinstance(site.model.embedding, Embedding):
        raise InputError(f"{site.source}: {site.model.model_type} has no table of tokens to stand behind")
    coupling = Coupling(file.r or max(1, site.model.width // 4), file.function)
    targets = Targets(())
    return CouplingPlan(
        site.source, site.model.model_type, targets, _always(coupling), _trained(file), coupling=coupling
    )


def _prompt_network(file: PromptNetworkFile, site: Site) -> NetworkPlan:
    stack = _one_stack(site)
    hidden, recurrent = (
        file.encoder_hidden_size or stack.width,
        file.encoder_reparameterization_type == "LSTM",
    )
    return NetworkPlan(
        file.num_virtual_tokens, stack.width, _trained(file), hidden_width=hidden,
        n_recurrent=file.encoder_num_layers if recurrent else 0,
    )  # fmt: skip


def _prompt(file: PromptFile, site: Site) -> PromptPlan:
    _one_stack(site)
    return PromptPlan(file.num_virtual_tokens, site.model.width, _trained(file))


def _prefix(file: PrefixFile, site: Site) -> PrefixPlan:
    """Raises InputError if the file was made for a model with other layers or other keys."""
    stack = _one_stack(site)
    attention = _attention(stack, site)
    width = attention.n_kv_heads * attention.head_dim
    for name, stated, own in (
        ("num_layers", file.num_layers, stack.n_layers), ("token_dim", file.token_dim, width),
    ):  # fmt: skip
        if stated is not None and stated != own:
            raise InputError(f"{site.source}: {name} is {stated}, this {stack.model_type} model has {own}")
    inner = (file.encoder_hidden_size or width) if file.prefix_projection else 0
    return PrefixPlan(
        file.num_virtual_tokens, width, _trained(file), n_layers=stack.n_layers, inner_width=inner
    )


def _one_stack(site: Site) -> Transformer:
    if not isinstance(site.model, Transformer):
        raise InputError(f"{site.source}: prompts of an encoder with a decoder are not supported")
    return site.model


def _attention(stack: Transformer, site: Site) -> Attention:
    block = stack.blocks[0][0]
    if not isinstance(block, Block) or not isinstance(block.attention, Attention):
        raise InputError(f"{site.source}: {stack.model_type} has no keys and values to put a prefix before")
    return block.attention


def _loha(file: LohaFile, site: Site) -> TunerPlan:
    ranks = file.rank_pattern or {}
    for pattern in ranks:
        check_pattern(pattern, "rank_pattern", site.source)
    return _tuner(file, site, lambda _, path: Hadamard(by_pattern(ranks, path, file.r)), patterns=ranks)


def _hira(file: HiraFile, site: Site) -> TunerPlan:
    site.check_rank(file.r)
    return _tuner(file, site, _always(HadamardProduct(file.r)))


def _transformed(file: FourierFile | WaveFile, site: Site, change: Callable[[int], Change]) -> TunerPlan:
    """`change` of the number of entries that the file states for a module."""
    counts = file.n_frequency_pattern or {}
    for pattern in counts:
        check_pattern(pattern, "n_frequency_pattern", site.source)
    return _tuner(
        file, site, lambda _, path: change(by_pattern(counts, path, file.n_frequency)), patterns=counts,
        trained=_trained(file, file.bias),
    )  # fmt: skip


def _waveft(file: WaveFile, site: Site) -> TunerPlan:
    return _transformed(file, site, lambda n_entries: Wavelets(n_entries, file.n_taps))


def _glora(file: GloraFile, site: Site) -> TunerPlan:
    site.check_rank(file.r)
    return _tuner(file, site, _always(GeneralUpdate(file.r)), trained=_trained(file, file.bias))


def _road(file: RoadFile, site: Site) -> TunerPlan:
    change = PlaneRotation(int(file.variant[-1]))
    return _tuner(file, site, _always(change))


def _oft(file: OftFile, site: Site) -> TunerPlan:
    terms = file.num_cayley_neumann_terms if file.use_cayley_neumann else 0
    change = BlockRotation(file.oft_block_size, file.r, terms, file.block_share)
    return _tuner(file, site, _always(change), trained=_trained(file, file.bias))


def _miss(file: MissFile, site: Site) -> TunerPlan:
    site.check_rank(file.r)
    change: Change = ShardSum(file.r, file.mini_r if file.init_weights == "mini" else 0)
    if file.init_weights == "bat":
        change = BlockAffine(file.r)
    return _tuner(file, site, _always(change), trained=_trained(file, file.bias))


def _norms(file: NormFile, site: Site) -> PassivePlan:
    names = tuple(file.target_modules)
    trained = _trained(file)
    trained = replace(trained, saved=(*trained.saved, *names))
    return PassivePlan(site.source, site.model.model_type, names, trained)


def _tokens(file: TokensFile, site: Site) -> PassivePlan:
    stated = file.target_modules
    names = (stated,) if isinstance(stated, str) else tuple(stated or _TABLE_NAMES)
    rows = len(set(file.token_indices))
    trained = Trained(tokens=tuple((name, rows) for name in names))
    return PassivePlan(site.source, site.model.model_type, names, trained)


#: What families call the table of tokens, for files that do not say.
_TABLE_NAMES = (
    "embed_tokens",
    "wte",
    "word_embeddings",
    "shared",
    "embed_in",
    "embeddings",
    "tok_embeddings",
)


METHODS: Mapping[str, AdapterMethod[Any]] = {
    "LORA": AdapterMethod(LoraFile, _lora),
    "ADALORA": AdapterMethod(AdaLoraFile, _adalora),
    "IA3": AdapterMethod(Ia3File, _ia3),
    "VERA": AdapterMethod(VeraFile, _vera),
    "SHIRA": AdapterMethod(ShiraFile, _shira),
    "LOKR": AdapterMethod(LokrFile, _lokr),
    "BOFT": AdapterMethod(BoftFile, _boft),
    "LOHA": AdapterMethod(LohaFile, _loha),
    "HIRA": AdapterMethod(HiraFile, _hira),
    "GLORA": AdapterMethod(GloraFile, _glora),
    "FOURIERFT": AdapterMethod(FourierFile, lambda file, site: _transformed(file, site, Spectrum)),
    "WAVEFT": AdapterMethod(WaveFile, _waveft),
    "ROAD": AdapterMethod(RoadFile, _road),
    "OFT": AdapterMethod(OftFile, _oft),
    "MISS": AdapterMethod(MissFile, _miss),
    "LN_TUNING": AdapterMethod(NormFile, _norms),
    "TRAINABLE_TOKENS": AdapterMethod(TokensFile, _tokens),
    "HRA": AdapterMethod(HraFile, _hra),
    "VBLORA": AdapterMethod(VectorBankFile, _vector_bank),
    "RANDLORA": AdapterMethod(RandLoraFile, _randlora),
    "C3A": AdapterMethod(CirculantFile, _circulant),
    "P_TUNING": AdapterMethod(PromptNetworkFile, _prompt_network),
    "PROMPT_TUNING": AdapterMethod(PromptFile, _prompt),
    "PREFIX_TUNING": AdapterMethod(PrefixFile, _prefix),
}

#: Methods that only presets state.
PRESET_METHODS: Mapping[str, AdapterMethod[Any]] = {
    **METHODS,
    "BOTTLENECK": AdapterMethod(BottleneckFile, _bottleneck),
}
