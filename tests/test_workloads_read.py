"""Wrong model files: one line with file and field, nothing but InputError."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.dataflow.errors import InputError
from tilewright.workloads.workload import load_workload


def _refusal(file: Path, content: str | dict[str, Any], **terms: Any) -> str:
    """The one line with which a configuration is refused, its file name taken off."""
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError) as error:
        load_workload(file, **terms)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(str(file))
    return message.removeprefix(str(file))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none/config\.json: No such file or directory"):
        load_workload(tmp_path / "none" / "config.json")


def test_a_folder_without_a_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json: No such file or directory"):
        load_workload(tmp_path)


def test_an_unknown_preset_names_the_closest_and_all() -> None:
    with pytest.raises(InputError, match=r"'gpt2-medum' is neither a preset \(did you mean 'gpt2-medium'"):
        load_workload("gpt2-medum")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"model_type": "gpt2",\n  "n_layer": }', ":2:14: not JSON: Expecting value"),
        ("[1, 2]", ": must hold a JSON object, holds a list"),
        ("", ":1:1: not JSON: Expecting value"),
        ("[" * 100_000, ": nested too deeply"),
        ('{"n_layer": ' + "9" * 5000 + "}", ": a number has too many digits"),
    ],
)
def test_what_is_no_json_object_is_refused_with_its_place(tmp_path: Path, text: str, expected: str) -> None:
    assert _refusal(tmp_path / "config.json", text) == expected


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(b'{"model_type": "\xff"}')
    with pytest.raises(InputError, match="not UTF-8 text at byte 16"):
        load_workload(file)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"model_type": None}, ": model_type: missing; supported: "),
        ({"model_type": ["gpt2"]}, ": model_type: must be a name, got "),
        (
            {"model_type": "gpt-2"},
            ": model_type: 'gpt-2' is unknown (did you mean 'gpt2'?); export it to an .onnx file or write it as",
        ),
        (
            {"architectures": ["GPT2ForRewardModel"]},
            ": architectures: 'GPT2ForRewardModel': models with this",
        ),
        (
            {"model_type": "rwkv"},
            ": model_type: 'rwkv' is unknown; export it to an .onnx file or write it as a .cascade,",
        ),
        (
            {"activation_function": "gelu_neww"},
            ": activation_function: the function 'gelu_neww' is unknown (did you mean 'gelu_new'?); known: ",
        ),
        ({"n_layer": 0}, ": n_layer: input should be greater than 0, got 0"),
        ({"n_layer": -3}, ": n_layer: input should be greater than 0, got -3"),
        ({"n_layer": "12"}, ": n_layer: input should be a valid integer, got '12'"),
        ({"n_layer": True}, ": n_layer: input should be a valid integer, got True"),
        ({"n_layer": 10**9}, ": n_layer: input should be less than or equal to 4096, got 1000000000"),
        ({"n_embd": 10**30}, ": n_embd: input should be less than or equal to 1048576, got 1"),
        ({"n_embd": None}, ": n_embd: input should be a valid integer, got None"),
        ({"n_embd": 770}, ": n_embd 770 is not a multiple of n_head 12"),
        ({"n_embd": 768.5}, ": n_embd: input should be a valid integer, got 768.5"),
        ({"layer_norm_epsilon": float("nan")}, ": layer_norm_epsilon: input should be"),
        ({"vocab_size": [50257]}, ": vocab_size: input should be a valid integer, got [50257]"),
        ({"activation_function": 3}, ": activation_function: input should be a valid string, got 3"),
        ({"architectures": "GPT2LMHeadModel"}, ": architectures: input should be a valid list, got 'GPT2"),
    ],
)
def test_a_wrong_field_is_refused_by_its_name_and_value(
    tmp_path: Path, fields: dict[str, Any], expected: str
) -> None:
    refusal = _refusal(tmp_path / "config.json", {"model_type": "gpt2", **fields})
    assert refusal.startswith(expected)


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({"phase": "decode"}, "phase decode needs cache > 0"),
        ({"phase": "prefil"}, "phase 'prefil' is unknown (did you mean 'prefill'?); known: prefill, decode"),
        ({"lowering": "hard"}, "lowering 'hard' is unknown (did you mean 'hardware'?)"),
        ({"logits": "first"}, "logits 'first' is unknown"),
        ({"attention": "two_pass"}, "attention 'two_pass' is unknown (did you mean 'one_pass'?)"),
        ({"adapter_mode": "fused", "adapter": "lora"}, "adapter_mode 'fused' is unknown"),
        ({"batch": 0}, "batch must be an integer in 1.."),
        ({"seq": -1}, "seq must be an integer in 1.."),
        ({"cache": -1}, "cache must be an integer in 0.."),
        ({"seq": 1025}, "preset gpt2: cache 0 + seq 1025 exceed the 1024 positions"),
        ({"precision": {"weights": "int7"}}, "precision.weights: unknown data type 'int7' (did you mean"),
        ({"precision": {"weight": "int8"}}, "precision: unknown role 'weight' (did you mean 'weights'?)"),
    ],
)
def test_wrong_terms_of_a_run_are_refused(terms: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError) as error:
        load_workload("gpt2", **terms)
    assert str(error.value).startswith(expected)
    assert "\n" not in str(error.value)


_FIELDS = st.sampled_from(
    ["n_layer", "n_head", "n_embd", "n_inner", "vocab_size", "n_positions", "layer_norm_epsilon",
     "activation_function", "tie_word_embeddings", "architectures", "model_type", "id2label"]
)  # fmt: skip
_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)  # fmt: skip


@given(st.dictionaries(_FIELDS, _VALUES, max_size=4))
def test_any_field_with_any_value_loads_or_is_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, fields: dict[str, Any]
) -> None:
    file = tmp_path_factory.mktemp("fuzz") / "config.json"
    file.write_text(json.dumps({"model_type": "gpt2", **fields}))
    try:
        load_workload(file, seq=1)
    except InputError as error:
        assert "\n" not in str(error)
