"""The one place that starts or joins Ray."""

from __future__ import annotations

from raypipe.runtime.session import cause, kept_ray, quiet_ray, ray_is_running, ray_session, set_environment, wants_ray

__all__ = [
    "cause",
    "kept_ray",
    "quiet_ray",
    "ray_is_running",
    "ray_session",
    "set_environment",
    "wants_ray",
]
