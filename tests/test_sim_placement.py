"""Placement: who lies where, what is refused, and whether there is room."""

import json

import pytest
from pydantic import ValidationError

from tests.sequential_cases import small_network
from tilewright.dataflow.errors import InputError
from tilewright.dataflow.tensor import Role
from tilewright.files import DesignFile, PlacementFields, problem_line
from tilewright.placements import placement_of
from tilewright.sim.architecture import Architecture, Dram
from tilewright.sim.placed_residents import channel_bytes, check_placed, with_placement
from tilewright.sim.placement import KINDS, POLICIES, Placement, Rule, kind_of, policy_placement


def test_a_pattern_goes_before_a_role_and_the_rest_lies_everywhere() -> None:
    placement = Placement((Rule("weight", (0, 1)), Rule("*_bias", (3,))))
    assert placement.channels_of("fc_weight", "weight", 4) == (0, 1)
    assert placement.channels_of("fc_bias", "weight", 4) == (3,)
    assert placement.channels_of("x", "activation", 4) == (0, 1, 2, 3)


def test_a_table_whose_rows_are_picked_is_an_embedding_and_else_lies_with_the_weights() -> None:
    assert kind_of(Role.WEIGHT, True) == "embedding"
    assert kind_of(Role.KV_CACHE, True) == "kv_cache"
    with_weights = Placement((Rule("weight", (1,)),))
    assert with_weights.channels_of("wte", "embedding", 2) == (1,)
    apart = Placement((Rule("weight", (1,)), Rule("embedding", (0,))))
    assert apart.channels_of("wte", "embedding", 2) == (0,)


@pytest.mark.parametrize("n_channels", [1, 2, 3, 4, 16, 32])
@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "interleaved"])
def test_every_policy_gives_every_kind_channels_that_are_there(policy: str, n_channels: int) -> None:
    placement = policy_placement(policy, n_channels)
    assert placement is not None
    placement.check_channels(n_channels)
    sets = {kind: placement.channels_of("t", kind, n_channels) for kind in KINDS}
    assert set().union(*sets.values()) == set(range(n_channels))
    if n_channels >= 4:
        assert not set(sets["weight"]) & set(sets["kv_cache"])
        share = {"weights_half": 2, "weights_most": 3, "by_role": 2}[policy]
        assert len(sets["weight"]) == n_channels * share // 4
        assert (sets["kv_cache"] == sets["activation"]) == (policy != "by_role")


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"channels": {"weight": "0-4"}}, r"'weight': channel must be in 0\.\.3, got 4"),
        ({"channels": {"weight": [1, 1]}}, "channels of 'weight' must be given, each once"),
        ({"channels": {"weight": "3-1"}}, r"placement\.channels\.weight: first-last must ascend, got '3-1'"),
        ({"channels": {"weight": "all"}}, "must be a channel or first-last, got 'all'"),
    ],
)
def test_what_a_file_states_wrongly_is_refused_in_one_line(stated: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        placement_of(PlacementFields.model_validate(stated), 4)


def test_a_files_spans_and_lists_are_channels() -> None:
    stated = PlacementFields(channels={"weight": "0-2", "kv_cache": [3, "5-6"], "x": 4}, interleave_bytes=512)
    found = placement_of(stated, 8)
    assert found is not None
    assert [rule.channels for rule in found.rules] == [(0, 1, 2), (3, 5, 6), (4,)]
    assert (found.interleave_bytes, found.kv_page_bytes) == (512, 4096)
    assert placement_of("interleaved", 8) is None


def test_too_many_ways_to_overlap_are_refused() -> None:
    rules = tuple(Rule(f"t{i}", (i, i + 1)) for i in range(9))
    with pytest.raises(InputError, match="channels may form 8 groups, these sets form"):
        Placement(rules).check_channels(12)


def test_a_name_that_is_nothing_of_the_network_is_refused_with_the_nearest() -> None:
    network = small_network("prefill", "none")
    placed = Dram("dram", "hbm2_pc_bg", 4, placement=Placement((Rule("wieght", (0,)),)))
    with pytest.raises(InputError, match=r"'wieght' is no role and no tensor \(did you mean 'weight'\?\)"):
        check_placed(network, placed)


def test_channels_that_have_no_room_are_refused_with_both_figures() -> None:
    network = small_network("prefill", "none")
    full = Dram("dram", "u280_hbm2", 4, placement=Placement((Rule("weight", (2,)),)))
    check_placed(network, full)
    held = channel_bytes(network, Placement((Rule("weight", (2,)),)), 4)
    assert held[2] == max(held)
    many = tuple(type(layer)(layer.name, layer.graph, 100_000) for layer in network)
    with pytest.raises(InputError, match=r"does not fit: channel 2 would hold .* bytes, has 268,435,456"):
        check_placed(many, full)


def test_every_resident_byte_is_on_some_channel_whatever_the_placement() -> None:
    network = small_network("decode", "unmerged")
    whole = channel_bytes(network, Placement(), 1)[0]
    for policy in ("weights_half", "by_role"):
        placement = policy_placement(policy, 8)
        assert placement is not None
        assert sum(channel_bytes(network, placement, 8)) == pytest.approx(whole)


def test_a_placement_replaces_that_of_the_memory() -> None:
    plain = Architecture("a", "u280", 200.0, (Dram("dram", "u280_hbm2", 2),), ())
    placed = with_placement(plain, Placement((Rule("weight", (1,)),)))
    assert placed.of_kind(Dram)[0].placement == Placement((Rule("weight", (1,)),))
    assert with_placement(plain, None) is plain
    with pytest.raises(InputError, match=r"channel must be in 0\.\.1, got 2"):
        with_placement(plain, Placement((Rule("weight", (2,)),)))


@pytest.mark.parametrize(
    ("stated", "line"),
    [
        (
            {"channels": {"weight": 1.5}},
            "placement.channels.weight: Input should be a valid integer, got 1.5",
        ),
        ({"kv_page_bytes": 0}, "placement.kv_page_bytes: Input should be greater than 0, got 0"),
        ({"channel": 3}, "unknown key 'placement.channel' (did you mean 'channels'?)"),
        ([1], "placement: Input should be an object, got [1]"),
    ],
)
def test_a_placement_in_a_file_is_refused_by_the_names_in_the_file(stated: object, line: str) -> None:
    content = {"workload": "w.yaml", "device": "u280", "placement": stated}
    with pytest.raises(ValidationError) as error:
        DesignFile.model_validate_json(json.dumps(content), strict=True)
    assert problem_line(DesignFile, error.value).startswith(line)


def test_channels_beyond_any_memory_are_refused_before_they_are_listed() -> None:
    with pytest.raises(InputError, match="may span 4096 channels at most, got '0-999999'"):
        placement_of(PlacementFields(channels={"weight": "0-999999"}), 32)
