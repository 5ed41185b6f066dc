"""The one place that names the version: the package's metadata and the User-Agent read it."""

__version__ = "2.0.0"
