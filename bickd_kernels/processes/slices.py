"""Which samples of the global batch each rank of a group holds."""

from __future__ import annotations

from typing import NamedTuple

from bickd_kernels.processes.group import ProcessGroup


class Slices(NamedTuple):
    """The global batch is the concatenation of the ranks' batches, in the order of the ranks."""

    group: ProcessGroup
    rank: int
    rows: tuple[int, ...]
    """How many samples each rank holds; 0 is allowed."""
    needs_gradient: bool
    """Whether any rank wants a gradient: all of them then take part in forming it."""

    @property
    def ranks(self) -> int:
        """The number of processes."""
        return len(self.rows)

    @property
    def total(self) -> int:
        """The number of samples of the global batch."""
        return sum(self.rows)

    @property
    def first(self) -> int:
        """The index of this rank's first sample in the global batch."""
        return sum(self.rows[: self.rank])

    @property
    def own(self) -> slice:
        """This rank's samples in the global batch."""
        return slice(self.first, self.first + self.rows[self.rank])

    def shares(self, count: int) -> tuple[int, ...]:
        """``count`` divided among the ranks as evenly as can be."""
        least, more = divmod(count, self.ranks)
        return tuple(least + (rank < more) for rank in range(self.ranks))
