"""What tests of single parts share: examples may take as long as they do."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# By itself hypothesis fails a test of which one example takes 200 ms, as any may on a busy machine.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
