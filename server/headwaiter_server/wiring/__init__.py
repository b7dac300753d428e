"""Models put together, joined to the scheduler and the metrics; the only package that knows every part of one."""

from headwaiter_server.wiring.models import PlannedModel, Wiring
from headwaiter_server.wiring.watching import model_facts, watch, watch_cache

__all__ = ["PlannedModel", "Wiring", "model_facts", "watch", "watch_cache"]
