"""Loss scaling for float16, on the device, so that a scaled step can be captured as a CUDA graph.

Small gradients become zero in float16. The loss is therefore multiplied by a large factor before the backward pass, and
the optimizer divides the gradients by it. If a gradient overflows, the step is skipped and the factor is halved.

torch.amp.GradScaler waits for the device in each step, to decide whether to skip it. This one has the same constants,
gives the optimizer the same attributes, and has the same format in checkpoints.

Sources: Micikevicius et al., *Mixed Precision Training*, 2018; torch.amp.GradScaler; the lowest factor:
facebookresearch/fairseq.
"""

from typing import Any

import torch
from torch import Tensor

INITIAL_SCALE = 2.0**16
LOWEST_SCALE = 1.0
"""A gradient that still overflows at this factor is not finite without scaling either."""
GROWTH_INTERVAL = 2000
"""Finite steps after which the factor is doubled."""


class LossScaler:
    """The factor of the loss, float32 [] on the device, and how it changes; does nothing if it is not enabled."""

    def __init__(self, device: torch.device, *, enabled: bool) -> None:
        self.enabled = enabled
        self._scale = torch.full((), INITIAL_SCALE, device=device)
        self._finite_steps = torch.zeros((), dtype=torch.int32, device=device)

    @property
    def factor(self) -> Tensor | None:
        """What the gradients are multiplied by, float32 []; None if they are not scaled."""
        return self._scale if self.enabled else None

    def scale(self, loss: Tensor) -> Tensor:
        """Multiply a loss, float32 []."""
        return loss * self._scale if self.enabled else loss

    def overflowed(self, loss: Tensor, finite: Tensor) -> Tensor:
        """Whether a step that is not finite (`finite`, bool []) may be so because of the scaling alone: bool []."""
        return ~finite & torch.isfinite(loss.detach()) & (self._scale > LOWEST_SCALE)

    def update(self, finite: Tensor, frozen: Tensor) -> None:
        """Halve the factor after a step that is not finite, double it after many that are. All arguments are bool [].

        Nothing changes if `frozen`, as in the warm-up.
        """
        if not self.enabled:
            return
        steps = torch.where(finite, self._finite_steps + 1, 0)
        grows = steps == GROWTH_INTERVAL
        scale = torch.where(finite, self._scale, (self._scale / 2).clamp(min=LOWEST_SCALE))
        scale = torch.where(grows & torch.isfinite(scale * 2), scale * 2, scale)
        self._finite_steps.copy_(torch.where(frozen, self._finite_steps, torch.where(grows, 0, steps)))
        self._scale.copy_(torch.where(frozen, self._scale, scale))

    def reset(self) -> None:
        """Begin with the initial factor again."""
        self._scale.fill_(INITIAL_SCALE)
        self._finite_steps.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Return the factor and the count of finite steps as numbers, which waits for the device; empty if disabled."""
        if not self.enabled:
            return {}
        return {"scale": self._scale.item(), "_growth_tracker": int(self._finite_steps)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; an empty state, of a run in another precision, changes nothing."""
        if self.enabled and state:
            self._scale.fill_(state["scale"])
            self._finite_steps.fill_(state["_growth_tracker"])
