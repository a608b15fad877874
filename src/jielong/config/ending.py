"""Settings of :mod:`jielong.networks.stop`. No tensors here, so that recipes read at once."""

from __future__ import annotations

from pydantic import Field

from jielong.config.registry import Config


class StopHeadSettings(Config):
    """Settings of the stop head, which ends items for which no length is given.

    Attributes:
        threshold: An item ends where the predicted probability reaches this.
        positive_weight: Weight of the one position behind an item's end against all before it.
        weight: Weight of the stop head's loss beside the token head's.
    """

    threshold: float = Field(default=0.5, gt=0, lt=1)
    positive_weight: float = Field(default=100.0, gt=0)
    weight: float = Field(default=1.0, gt=0)
