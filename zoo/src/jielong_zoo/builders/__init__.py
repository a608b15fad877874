"""Builders of the sets that are not shipped: from packages of npm and Debian, or by speech synthesis."""
