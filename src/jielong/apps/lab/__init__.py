"""The lab: claims about generation, each tried by an experiment of two minutes at most, with a figure and a measured verdict."""

from jielong.apps.lab.running import Result, missing, run
from jielong.apps.lab.trial import Bench, Outcome, Trial, trials
from jielong.apps.lab.verdict import Check, Verdict, conclude

__all__ = ["Bench", "Check", "Outcome", "Result", "Trial", "Verdict", "conclude", "missing", "run", "trials"]
