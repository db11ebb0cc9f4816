"""Length curriculum: the first epochs have the shorter sentences only (Kocmi and Bojar, 2017; Platanios et al., 2019).

All epochs have the same number of batches, so that the step number alone still determines the position in the data: an
epoch of short sentences has each of them several times.
"""

import numpy as np
import numpy.typing as npt

from data.batching import BatchPlan, Epoch, Shape


class CurriculumPlan(BatchPlan):
    """The plan of batches whose first epochs have the shortest sentences: of N such epochs, the n-th n / (N + 1).

    The length of a pair is the sum of both sides. Sentences of the same length are in or out together.
    """

    def __init__(
        self,
        source: npt.NDArray[np.integer],
        target: npt.NDArray[np.integer],
        shape: Shape,
        seed: int,
        epochs: int,
    ) -> None:
        """Takes the lengths in tokens, [n], and the number of epochs before those with all sentences."""
        super().__init__(source, target, shape, seed)
        self._source, self._target, self._first = source, target, epochs

    def epoch(self, number: int) -> Epoch:
        """Returns the batches of an epoch, in order."""
        whole = super().epoch(number)
        if number >= self._first:
            return whole
        lengths = self._source.astype(np.int64) + self._target
        longest = np.quantile(lengths, (number + 1) / (self._first + 1))
        chosen = np.flatnonzero(lengths <= longest)
        short = BatchPlan(self._source[chosen], self._target[chosen], self.shape, self.seed).epoch(number)
        return Epoch(chosen[short.sentences], short.starts, np.resize(short.order, len(whole.order)), whole.cuts)
