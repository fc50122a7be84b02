"""Methods of a stranger's own: one that is signed, and ten more."""

import torch

import relprop


@relprop.method("left_or_right", signed=True)
def left_or_right(trace, target, options):
    """Against the class at the beginning of the input, for it at the end."""
    count = trace.places.count
    return torch.linspace(-1, 1, count).to(trace.logits).expand(len(target), -1)


for power in range(1, 11):

    @relprop.method(f"attention_{power}", product=power % 2 == 0)
    def attention(trace, target, options, power=power):
        """Mean attention of the last block to a power."""
        found = trace.attention[-1].pow(power).mean(dim=(1, 2))
        return found + 0 * target[:, None]  # for several classes at once, too
