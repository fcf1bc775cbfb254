"""Streaming weights token by token: time by hand, ring of cards, invariants over models."""

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.cases import dfx
from tilewright.dataflow.errors import InputError
from tilewright.sim.architecture import Link
from tilewright.sim.collective import ring_all_gather_cycles
from tilewright.sim.design import Design
from tilewright.sim.device import device_named
from tilewright.sim.evaluate import evaluate
from tilewright.sim.report import Report
from tilewright.sim.streaming_vector import StreamingVector
from tilewright.workloads.workload import load_workload

FP16 = {"weights": "fp16", "activations": "fp16", "kv_cache": "fp16", "accumulators": "fp16"}


def report(model: str, phase: str = "decode", cache: int = 32, seq: int = 1, **parameters: float) -> Report:
    terms = {"seq": seq} if phase == "prefill" else {"seq": 1, "cache": cache}
    workload = load_workload(model, phase=phase, precision=FP16, **terms)  # type: ignore[arg-type]
    stated = {"clock_mhz": 200.0, **parameters}
    return evaluate(workload.network, Design("streaming_vector", "u280", stated))  # type: ignore[arg-type]


@given(st.integers(1, 8), st.integers(1, 10000), st.integers(0, 500), st.sampled_from([1.0, 60.625, 128.0]))
def test_a_ring_gathers_in_one_hop_less_than_chips(n: int, n_bytes: int, latency: int, rate: float) -> None:
    cycles = ring_all_gather_cycles(Link("link", rate, latency), n, n_bytes)
    assert cycles == (n - 1) * (latency + ceil(ceil(n_bytes / n) / rate))


def test_a_token_takes_at_least_its_weights_over_the_stream() -> None:
    found = report("gpt2")
    # 12 layers of 12 x 768^2 and the head's 50257 x 768 weights of two bytes, 2048 bytes a cycle
    weight_bytes = 2 * (12 * 12 * 768**2 + 50257 * 768)
    assert found.dram_read_bytes > weight_bytes
    assert found.latency_cycles > weight_bytes / 2048
    assert found.latency_cycles < 1.5 * weight_bytes / 2048


def test_half_the_stream_takes_twice_the_time_where_the_stream_is_the_limit() -> None:
    times = [report("gpt2", stream_efficiency=share).latency_cycles for share in (0.2, 0.1)]
    assert times[1] / times[0] == pytest.approx(2, rel=0.03)


def test_every_token_of_a_prompt_reads_all_weights() -> None:
    one, four = (report("gpt2", "prefill", seq=n).dram_read_bytes for n in (1, 4))
    head = 2 * 50257 * 768  # of the last token alone
    assert (four - head) / (one - head) == pytest.approx(4, rel=0.01)


def test_cards_share_products_and_pay_for_the_ring() -> None:
    free = {"hop_ns": 0.0, "link_gbit_per_s": 1600.0, "stream_efficiency": 0.5}
    one, four = report("gpt2", cards=1, **free), report("gpt2", cards=4, **free)
    assert four.latency_cycles / one.latency_cycles == pytest.approx(0.25, rel=0.12)
    assert four.dram_read_bytes == pytest.approx(one.dram_read_bytes, rel=0.01)
    slow = report("gpt2", cards=4, **(free | {"hop_ns": 2000.0}))
    # four synchronisations a layer, three hops each, 400 cycles a hop, less what streams ahead meanwhile
    waited = slow.latency_cycles - four.latency_cycles
    assert 0.9 * 12 * 4 * 3 * 400 < waited <= 12 * 4 * 3 * 400


@pytest.mark.parametrize(
    ("model", "phase"),
    [
        ("gpt2", "prefill"),
        ("tinyllama-1.1b", "decode"),
        ("mamba-130m", "prefill"),
        ("vit-base-patch16-224", "prefill"),
    ],
)
@pytest.mark.parametrize("cards", [1, 4])
def test_models_run_no_faster_than_the_bound(model: str, phase: str, cards: int) -> None:
    if model.startswith("vit"):
        workload = load_workload(model, precision=FP16)
        found = evaluate(workload.network, Design("streaming_vector", "u280", {"cards": cards}))
    else:
        found = report(model, phase, seq=8, cards=cards)
    assert found.latency_cycles >= found.bound_cycles
    assert found.macs_computed >= found.macs


def test_published_latencies_of_four_cards_come_out_within_fifteen_percent() -> None:
    # Two tokens' times stand for all between them: they are linear in the tokens held.
    low, high = dfx.token_ms("1.5b", 1), dfx.token_ms("1.5b", 287)
    middle = dfx.token_ms("1.5b", 144)
    assert middle == pytest.approx((low + high) / 2, rel=0.005)
    for (n_in, n_out), published_ms in {(32, 1): 227, (64, 1): 447, (128, 16): 991, (32, 256): 1981}.items():
        n = n_in + n_out - 1
        total = sum(low + (high - low) * held / 287 for held in range(n))
        assert total == pytest.approx(published_ms, rel=0.15)
    assert 1e3 / dfx.token_ms("345m", 64) == pytest.approx(
        185.19, rel=0.015
    )  # what the efficiency is fitted on


def test_what_the_family_lacks_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"parameter 'cards' must be in 1..8, got 9"):
        StreamingVector().build({"cards": 9}, device_named("u280"))
