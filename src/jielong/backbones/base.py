"""What a backbone is. It is defined beside the networks that are one (:mod:`jielong.networks.backbone`), as imports go one way.

Settings of a backbone have ``build(layout, condition_width)``: the network for tokens of a layout and a condition of so many channels
(``None``: no condition).
"""

from jielong.networks.backbone import AnyBackbone, Backbone, BackboneCache, BackboneInputs, check_raster

__all__ = ["AnyBackbone", "Backbone", "BackboneCache", "BackboneInputs", "check_raster"]
