"""Models put together, joined to the scheduler and the metrics; and what the settings say of TLS and tokens, opened."""

from headwaiter_server.wiring.models import PlannedModel, Wiring
from headwaiter_server.wiring.watching import model_facts, watch, watch_cache

__all__ = ["PlannedModel", "Wiring", "model_facts", "watch", "watch_cache"]
