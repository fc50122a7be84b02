"""The order of the training samples, and where in it a resumed run goes on."""

from collections.abc import Iterator

import torch
import torch.distributed
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler


def epoch_and_index(key: int | tuple[int, int]) -> tuple[int, int]:
    """What a training set is asked for: EpochSampler's (epoch, index), or an index of epoch 0.

    Plain indices come from a sequential sampler, which Lightning's `overfit_batches` puts in place
    of ours: the same samples epoch after epoch, as that option promises.
    """
    return key if isinstance(key, tuple) else (0, key)


class EpochSampler(DistributedSampler):
    """Yields shuffled (epoch, index) pairs, in an order that depends on (seed, epoch) alone.

    Given the epoch beside the index, a data set can make a sample's randomness a pure function of
    (seed, epoch, index). The samples are then the same with any number of workers and after a
    resume. Lightning calls `set_epoch` before every training epoch.

    Of several processes each gets an equal share; where the data set does not divide evenly, the
    first samples of the order are repeated to fill up.

    Attributes:
        start: (epoch, samples). In that epoch the first samples of the order are left out: a run
            that was stopped within it has seen them.

    Args:
        dataset: the training set; only its length is used.
        seed: of the order.
        weights: draw samples with replacement, each as often as its weight says; None: each once.
        num_replicas: how many processes share the data set. Default: those of
            torch.distributed where it is initialised, else 1.
        rank: which of them this is. Default: as for `num_replicas`, else 0.
    """

    def __init__(
        self,
        dataset: Dataset,
        seed: int,
        weights: Tensor | None = None,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if num_replicas is None:
            num_replicas = torch.distributed.get_world_size() if distributed else 1
        if rank is None:
            rank = torch.distributed.get_rank() if distributed else 0
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=seed)
        self.weights = weights
        self.start = (0, 0)

    def order(self) -> list[int]:
        """Indices of this process's samples in the epoch, in their order."""
        if self.weights is None:
            return list(super().__iter__())
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        drawn = torch.multinomial(self.weights, self.total_size, True, generator=generator)
        return drawn[self.rank :: self.num_replicas].tolist()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch  # workers fetch ahead: a later set_epoch must not change pairs under way
        started_in, seen = self.start
        order = self.order()[seen if epoch == started_in else 0 :]
        return ((epoch, index) for index in order)


class TrainLoader(DataLoader):
    """A loader that goes on within an epoch. Lightning keeps its state in every checkpoint.

    The state is the epoch and the batches of it that the loader has given.
    """

    batches = 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": getattr(self.sampler, "epoch", 0), "batches": self.batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        if isinstance(self.sampler, EpochSampler):  # not so with Lightning's `overfit_batches`
            self.sampler.start = (state["epoch"], state["batches"] * self.batch_size)

    def __iter__(self) -> Iterator:
        # Begins at the first batch that is asked for, when the sampler knows its epoch.
        started_in, seen = getattr(self.sampler, "start", (0, 0))
        resumed = seen > 0 and self.sampler.epoch == started_in
        self.batches = seen // self.batch_size if resumed else 0
        for batch in super().__iter__():
            self.batches += 1
            yield batch
