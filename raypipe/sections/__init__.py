"""The sections of the configuration: what can be set, with defaults, limits and units."""
