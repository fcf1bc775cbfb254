"""Generating tokens: which lengths of the cache stand for the steps behind a prompt."""

from tilewright.workloads.attention import Attention
from tilewright.workloads.block import Block
from tilewright.workloads.run import Run
from tilewright.workloads.transformer import Model

DEFAULT_OUTPUT_TOKENS = 128


def steps(n_prompt: int, n_output: int, limits: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """(tokens held, how many steps) that stand for the steps behind a prompt.

    The prompt's run gives the first of `n_output` tokens, so the steps hold n_prompt, ...,
    n_prompt + n_output - 2 tokens. What a step computes and moves is affine in what it holds, but for kinks
    at `limits`; between two of them the one or two whole numbers next to the mean, taken as often as their
    mean demands, give the same sums as all steps.
    """
    first, last = n_prompt, n_prompt + n_output - 2
    ends = sorted({limit for limit in limits if first <= limit < last} | {last})
    found: list[tuple[int, int]] = []
    for end in ends:
        n_steps = end - first + 1
        if n_steps <= 0:
            continue
        mean, rest = divmod((first + end) * n_steps // 2, n_steps)
        found += [(length, times) for length, times in ((mean, n_steps - rest), (mean + 1, rest)) if times]
        first = end + 1
    return tuple(found)


def window_limits(model: Model, run: Run) -> tuple[int, ...]:
    """The tokens held at which a window of the model is full."""
    blocks = [block for part in model.all_parts(run) for block, _ in part.stack.blocks]
    attentions = [block.attention for block in blocks if isinstance(block, Block)]
    windows = [spec.window for spec in attentions if isinstance(spec, Attention) and spec.window]
    return tuple(sorted({window - 1 for window in windows}))
