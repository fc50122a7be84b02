"""What is done each so many epochs, where not every epoch gives the occasion."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Every:
    """The first occasion at or after each ``epochs`` epochs, and all others of the same epoch.

    Attributes:
        epochs: epochs from one to the next.
        latest: the last epoch that it was done in; -1: none yet; None: not known, for it was done
            in each multiple of ``epochs``.

    >>> every = Every(4)
    >>> [epoch for epoch in range(1, 12, 2) if every.comes(epoch)]  # validated every second
    [1, 5, 9]
    """

    epochs: int
    latest: int | None = -1

    def comes(self, epoch: int) -> bool:
        """Whether it is to be done now; then it counts as done."""
        if self.latest is None:
            self.latest = (epoch - 1) // self.epochs * self.epochs
        if self.latest > epoch:  # of an earlier training
            self.latest = -1
        due = epoch == self.latest or epoch // self.epochs != self.latest // self.epochs
        if due:
            self.latest = epoch
        return due
