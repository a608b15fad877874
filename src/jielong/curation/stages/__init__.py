"""The stages of the funnel, one a file, in the order in which they are applied: cheap ones first."""
