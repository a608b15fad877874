"""Tests of curation need its libraries."""

from __future__ import annotations

import pytest

for name in ("av", "cv2", "scenedetect", "imagehash"):
    pytest.importorskip(name)
