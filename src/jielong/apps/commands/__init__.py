"""The commands of the command line, a file each. What is slow to import (torch, transformers) is imported inside the commands."""
