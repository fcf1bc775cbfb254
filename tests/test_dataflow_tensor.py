"""Tensors and profiles: what they hold, and what they refuse."""

import pytest

from tilewright.dataflow.tensor import DTYPE_BITS, Profile, Role, Tensor


def test_a_profile_sums_sizes_over_its_instances() -> None:
    profile = Profile(((3, 2), (5, 1)))
    assert (profile.n_instances, profile.total, profile.largest) == (3, 11, 5)


@pytest.mark.parametrize("entries", [(), ((5, 1), (3, 2)), ((3, 1), (3, 1)), ((-1, 1),), ((3, 0),)])
def test_a_profile_refuses_what_is_no_histogram(entries: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ValueError, match="Profile"):
        Profile(entries)


def test_a_tensor_knows_the_bits_of_its_type_and_refuses_an_unknown_one_or_a_rank_twice() -> None:
    assert Tensor("x", ("m", "k"), "int4", Role.WEIGHT).bits == 4
    assert all(bits >= 2 for bits in DTYPE_BITS.values())
    with pytest.raises(ValueError, match="'x': unknown dtype 'int5'"):
        Tensor("x", (), "int5", Role.WEIGHT)
    with pytest.raises(ValueError, match="'x' repeats a rank"):
        Tensor("x", ("m", "m"), "int8", Role.WEIGHT)
