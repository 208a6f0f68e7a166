"""The one place that starts or joins Ray."""

from __future__ import annotations

from raypipe.runtime.session import (
    original_error,
    ray_is_running,
    ray_session,
    set_environment,
    shared_ray,
    should_use_ray,
    silence_ray,
)

__all__ = [
    "original_error",
    "ray_is_running",
    "ray_session",
    "set_environment",
    "shared_ray",
    "should_use_ray",
    "silence_ray",
]
