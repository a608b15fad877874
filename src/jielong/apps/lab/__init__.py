"""Lab: experiments of at most two minutes that test claims about generation, each with a plot and a verdict."""

from jielong.apps.lab.running import Result, missing, run
from jielong.apps.lab.trial import Bench, Outcome, Trial, trials
from jielong.apps.lab.verdict import Check, Verdict, conclude

__all__ = ["Bench", "Check", "Outcome", "Result", "Trial", "Verdict", "conclude", "missing", "run", "trials"]
