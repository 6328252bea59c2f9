"""How far a run has come: by steps, which repeats, or by the clock, where a machine is lent for a time."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from torch.optim.lr_scheduler import OneCycleLR

_RESOLUTION = 10_000
"""Points of a learning-rate schedule that follows the clock."""


@dataclass
class Progress:
    """Share of a run that is behind it.

    Attributes:
        steps: of the whole run; an upper bound where ``seconds`` counts.
        seconds: of the whole run; 0 counts steps. The clock starts with the first step of this process, so a run by the
            clock does not go on exactly after a stop.
    """

    steps: int
    seconds: float = 0.0
    _began: float | None = field(default=None, init=False)

    @property
    def points(self) -> int:
        """Length of the learning-rate schedule."""
        return _RESOLUTION if self.seconds else self.steps

    def share(self, step: int) -> float:
        """Share of the run that is over before that step, in [0, 1]."""
        if not self.seconds:
            return min(step / self.steps, 1.0)
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        return min((now - self._began) / self.seconds, 1.0)

    def over(self, step: int) -> bool:
        """Whether that step is none any more."""
        return step >= self.steps or self.share(step) >= 1.0

    def advance(self, schedule: OneCycleLR, step: int) -> None:
        """Move the learning rate on after that many steps."""
        if self.seconds:
            target = min(int(self.share(step) * self.points), self.points - 1)
            schedule.last_epoch = target - 1
        schedule.step()
