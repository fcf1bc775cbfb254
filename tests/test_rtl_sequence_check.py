"""The rung of sequenced programs passes on sound hardware and fails on broken hardware, naming what differs."""

from dataclasses import replace

import pytest

from tilewright.dataflow.errors import InputError
from tilewright.hls_templates.rtl import softmax, transfer
from tilewright.hls_templates.rtl.array import Leaf, array_grid
from tilewright.hls_templates.rtl.check import RtlError
from tilewright.hls_templates.rtl.sequence_check import check_run, check_sequences, sequence_jobs
from tilewright.hls_templates.rtl.sequence_simulate import SequenceSimulator


def test_sound_hardware_passes() -> None:
    # 6 x 6 of the two products, 2 x 6 of the attention
    assert check_sequences(array_grid(2, 2)).startswith("3 programs, 84 values equal numpy's, ")


def test_a_wrong_weight_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax, "LARGEST_WEIGHT", 126)
    with pytest.raises(RtlError, match=r"attention: .* of 12 values differ from numpy's, the first is y\["):
        check_sequences(array_grid(2, 2))


def test_lost_cycles_are_named() -> None:
    job = sequence_jobs(array_grid(2, 2))[0]
    run = SequenceSimulator(job.sequence).run(job.tensors, job.latency_cycles)
    check_run(job, replace(run, n_cycles=run.n_cycles + 16))
    with pytest.raises(
        RtlError, match=rf"gemm: {run.n_cycles + 17} cycles, the tile simulator says {run.n_cycles}"
    ):
        check_run(job, replace(run, n_cycles=run.n_cycles + 17))


def test_slower_transfers_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    job = sequence_jobs(array_grid(2, 2))[0]
    real = transfer.transfer_leaf

    def slower(name: str, setup_cycles: int, address_bits: int, offset_bits: int) -> Leaf:
        return real(name, setup_cycles + 3, address_bits, offset_bits)

    monkeypatch.setattr("tilewright.hls_templates.rtl.datapath.transfer_leaf", slower)
    run = SequenceSimulator(job.sequence).run(job.tensors, job.latency_cycles)
    with pytest.raises(RtlError, match="the tile simulator says"):
        check_run(job, run)


def test_a_grid_without_a_sequencer_is_refused() -> None:
    with pytest.raises(InputError, match="output-stationary"):
        check_sequences(array_grid(4, 4, "input"))
