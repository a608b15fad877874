"""Kinds of media: each knows how to read, write, fit, show and wrap its items."""

from jielong.media.kinds.audio import audio_medium
from jielong.media.kinds.image import image_medium

__all__ = ["audio_medium", "image_medium"]
