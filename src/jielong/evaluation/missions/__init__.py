"""The judge of the set `missions`: reads clips of a grid world, checks each move by its simulator, and whether the mission is done."""

import os

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # pygame, which minigrid imports, prints a greeting otherwise
