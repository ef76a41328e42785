"""Raw drops into Postgres; what every other package shares: places, settings, errors."""

__version__ = "0.2.0"
