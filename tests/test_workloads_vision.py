"""Image families against the reference implementation, to the unit, and on models worked out by hand.

`data/vision_points.csv` holds what the reference counts for the files in `data/vision`: published sizes by
their fields, and ones with unusual fields. Each row names its origin.
"""

import csv
import json
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tilewright.dataflow.errors import InputError
from tilewright.workloads.count import Counts, count
from tilewright.workloads.workload import load_workload

DATA = Path(__file__).parent / "data"
FAMILIES = (
    "beit", "dinov2", "convnextv2", "siglip", "segformer", "pvt", "pvt_v2", "cvt", "poolformer", "mobilenet_v2",
    "swiftformer", "mobilevit", "levit", "efficientformer",
)  # fmt: skip


@cache
def _points() -> dict[tuple[str, str, str, str], dict[str, int]]:
    """Values by metric, by (file, phase, batch, side of the image)."""
    found: dict[tuple[str, str, str, str], dict[str, int]] = defaultdict(dict)
    with (DATA / "vision_points.csv").open(encoding="utf-8", newline="") as rows:
        for row in csv.DictReader(rows):
            key = (row["config_file"], row["phase"], row["batch"], row["seq"].partition("x")[0])
            found[key][row["metric"]] = int(row["value"])
    return found


def _fields(file: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((DATA / file).read_text())
    return values


def _terms(phase: str, batch: str, side: str) -> dict[str, Any]:
    """The terms of a run; a row of parameters states none."""
    if phase == "params":
        return {}
    return {"phase": phase, "batch": int(batch), "image": int(side)}


def _older(values: dict[str, Any]) -> dict[str, Any]:
    """The same file as releases before 5 wrote it: labels by their names, the type under its old key."""
    found = {name: value for name, value in values.items() if name != "num_labels"}
    n_labels = values.get("num_labels", 2)
    if values["model_type"] == "pvt":  # the class has its own number, so that files state it
        found["num_labels"] = n_labels
    names = {str(number): f"LABEL_{number}" for number in range(n_labels)}
    return found | {"id2label": names, "torch_dtype": "float32", "transformers_version": "4.57.6"}


def _differences(counts: Counts, metrics: dict[str, int]) -> dict[str, tuple[int, int]]:
    return {
        metric: (value, getattr(counts, metric))
        for metric, value in metrics.items()
        if getattr(counts, metric) != value
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_counts_equal_the_reference_in_both_spellings(tmp_path: Path, family: str) -> None:
    files = set()
    for (file, phase, batch, side), metrics in _points().items():
        values = _fields(file)
        if values["model_type"] != family:
            continue
        files.add(file)
        terms = _terms(phase, batch, side)
        assert _differences(count(load_workload(DATA / file, lowering="reference", **terms)), metrics) == {}
        older = tmp_path / "config.json"
        older.write_text(json.dumps(_older(values)))
        assert _differences(count(load_workload(older, lowering="reference", **terms)), metrics) == {}
    assert len(files) >= 2


def _count(folder: Path, model_type: str, fields: dict[str, Any], **terms: Any) -> Counts:
    file = folder / "config.json"
    file.write_text(json.dumps({"model_type": model_type, "num_labels": 3, **fields}))
    return count(load_workload(file, lowering="reference", **terms))


#: One stage of 8 x 8 positions, width 16, 2 heads, an inner width of 32.
_PYRAMID = {
    "image_size": 32, "num_encoder_blocks": 1, "depths": [1], "hidden_sizes": [16], "patch_sizes": [7],
    "strides": [4], "num_attention_heads": [2], "mlp_ratios": [2],
}  # fmt: skip


def test_keys_of_a_coarser_image_are_fewer_by_the_square_of_the_reduction(tmp_path: Path) -> None:
    fine = _count(tmp_path, "segformer", _PYRAMID | {"sr_ratios": [1]})
    coarse = _count(tmp_path, "segformer", _PYRAMID | {"sr_ratios": [2]})
    assert fine.flops_attention_bmm == 2 * 2 * 64 * 64 * 16
    assert coarse.flops_attention_bmm == 2 * 2 * 64 * 16 * 16
    # the convolution that reduces: 4 x 4 positions, 2 x 2 taps
    assert coarse.flops_conv - fine.flops_conv == 2 * 16 * 16 * 16 * 4
    # keys and values are projected of 16 positions in the place of 64
    assert fine.flops_linear - coarse.flops_linear == 2 * 2 * 48 * 16 * 16


def test_a_network_with_a_depthwise_convolution_sees_its_neighbours(tmp_path: Path) -> None:
    counts = _count(tmp_path, "segformer", _PYRAMID | {"sr_ratios": [1]})
    stem, depthwise = 64 * 16 * 3 * 49, 64 * 32 * 9
    assert counts.flops_conv == 2 * (stem + depthwise)


def test_pooling_mixes_without_a_product(tmp_path: Path) -> None:
    fields = {
        "num_encoder_blocks": 1, "depths": [1], "hidden_sizes": [16], "patch_sizes": [4], "strides": [4],
        "padding": [0], "mlp_ratio": 2.0,
    }  # fmt: skip
    counts = _count(tmp_path, "poolformer", fields, image=32)
    assert counts.flops_conv == 2 * 64 * (16 * 3 * 16 + 2 * 16 * 32)
    assert counts.flops_attention_bmm == 0
    # two group norms, two scales, the stem, the network; the norm and the labels of the head
    body = 2 * 32 + 2 * 16 + 16 * 48 + 16 + 2 * 16 * 32 + 48
    assert counts.params_total == body + 32 + 16 * 3 + 3


def test_a_text_is_matched_with_an_image_that_one_query_pools(tmp_path: Path) -> None:
    tower = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    fields = {
        "text_config": {**tower, "vocab_size": 10, "max_position_embeddings": 5},
        "vision_config": {**tower, "image_size": 8, "patch_size": 4},
    }
    whole = _count(tmp_path, "siglip", fields, batch=3)
    text = _count(tmp_path, "siglip", fields, batch=3, phase="prefill:text_tower")
    vision = _count(tmp_path, "siglip", fields, batch=3, phase="prefill:vision_tower")
    assert whole.flops_total == text.flops_total + vision.flops_total + 2 * 3 * 3 * 16
    # 5 tokens look at each other in the text, 4 patches in the image, 1 query at 4 patches
    assert whole.flops_attention_bmm == 2 * 2 * 3 * 16 * (5 * 5 + 4 * 4 + 4)
    assert whole.output_elems == 9


def test_queries_of_a_subsampling_attention_are_a_quarter(tmp_path: Path) -> None:
    fields = {
        "image_size": 64, "hidden_sizes": [16, 16, 16], "num_attention_heads": [2, 2, 2], "depths": [1, 1, 1],
        "key_dim": [4, 4, 4],
    }  # fmt: skip
    counts = _count(tmp_path, "levit", fields)
    own = [side**4 * 2 * (4 + 8) for side in (4, 2, 1)]  # keys of 4, values of 8 channels
    sampled = [(side // 2) ** 2 * side**2 * 4 * (4 + 16) for side in (4, 2)]
    assert counts.flops_attention_bmm == 2 * (sum(own) + sum(sampled))


@pytest.mark.parametrize(
    ("model_type", "fields", "terms", "expected"),
    [
        ("segformer", {"depths": [1, 1]}, {}, "depths has 2 stages, num_encoder_blocks is 4"),
        ("pvt", {}, {"image": 256}, "stage 0 has 64 positions along a side, 56 are learned"),
        ("cvt", {"cls_token": [True, False, True]}, {}, "cls_token: only the last stage may have one"),
        ("cvt", {"stride_q": [2, 1, 1]}, {}, "do not keep the positions"),
        ("levit", {}, {"image": 256}, "16 patches along a side, scores are learned for 14"),
        ("efficientformer", {}, {"image": 256}, "8 positions along a side, resolution is 7"),
        ("segformer", {}, {"image": 16}, "fewer than needed"),
        ("siglip", {"text_config": {"projection_size": 5}}, {}, "projection_size 5 and the vision's"),
        ("poolformer", {"mlp_ratio": 1e-9}, {}, "mlp_ratio 1e-09 leaves nothing of the width 64"),
        ("poolformer", {"pool_size": 2}, {}, "pool_size must be odd, got 2"),
        (
            "beit",
            {"use_relative_position_bias": True, "use_shared_relative_position_bias": True},
            {},
            "one of",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    tmp_path: Path, model_type: str, fields: dict[str, Any], terms: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InputError, match=expected) as error:
        _count(tmp_path, model_type, fields, **terms)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spelling", [[32, 32], {"height": 32, "width": 32}])
def test_a_square_may_be_written_as_a_pair(tmp_path: Path, spelling: Any) -> None:
    plain = _count(tmp_path, "segformer", _PYRAMID | {"sr_ratios": [1]})
    assert _count(tmp_path, "segformer", _PYRAMID | {"sr_ratios": [1], "image_size": spelling}) == plain
    with pytest.raises(InputError, match="image_size"):
        _count(tmp_path, "segformer", _PYRAMID | {"image_size": [32, 64]})


def test_the_query_that_pools_an_image_is_projected_once_on_hardware(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"vision_config": {"hidden_size": 768}}
    reference = _count(tmp_path, "siglip", fields, batch=4)
    hardware = count(load_workload(tmp_path / "config.json", batch=4))
    assert reference.flops_linear - hardware.flops_linear == 2 * 3 * 768 * 768
