"""When a chain is over: settings of :mod:`jielong.networks.stop`. No tensors here, so that recipes read at once."""

from __future__ import annotations

from pydantic import Field

from jielong.config.registry import Config


class StopHeadSettings(Config):
    """Settings of a generator whose items end by themselves.

    Attributes:
        threshold: An item ends where the probability that it is over reaches this.
        positive_weight: Of the one position at which an item is over, against all at which it is not.
        weight: Of the stop head's loss beside the token head's.
    """

    threshold: float = Field(default=0.5, gt=0, lt=1)
    positive_weight: float = Field(default=100.0, gt=0)
    weight: float = Field(default=1.0, gt=0)
