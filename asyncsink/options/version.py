"""The version of this package, known without its metadata: to read that takes as long as all of a short command."""

VERSION = "0.1.0"
