"""How gRPC itself balances, watches health and retries: the one place that says so.

`SERVICE_CONFIG` is published: clients in any language can take it as their default service config and behave
like this one. The same is in `clients/service-config.json`, and with pick-first in
`clients/service-config-pick-first.json`. Its fields are those of gRPC's `service_config.proto`:

- `round_robin` over every address of the target, needed for the health check below to act. With `pick_first` all
  calls go to one address, until that one sends its clients away; nobody looks at its health.
- Client-side health checking of the service "", the server as a whole: an address that says it is not serving
  gets no calls until it serves again.
- Retries of UNAVAILABLE (refused under load, or the connection broke) and of CANCELLED (a server that stops
  ends its calls so; gRPC never retries what the caller itself cancelled). All methods of the service compute
  a result and change nothing, so that running one twice is safe; of the Open Inference Protocol, those named.
  gRPC honours `grpc-retry-pushback-ms`: the server's wait replaces the backoff, and -1 means no retry.
- Throttling, per server: failures beyond about one for every ten successes stop all retries, so that a server
  in trouble is not hit four times as hard. 1000 tokens, half of which can be spent, let a few hundred
  concurrent callers ride out one restart first.
"""

from __future__ import annotations

import json
from typing import Any, Final

from headwaiter.methods import INFERENCE_SERVICE

# Those that change nothing: neither load a model nor register memory.
_OPEN_INFERENCE_METHODS: Final = (
    "ServerLive",
    "ServerReady",
    "ServerMetadata",
    "ModelReady",
    "ModelMetadata",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
    "ModelInfer",
    "ModelStreamInfer",
)

_NAMES: Final = [
    {"service": INFERENCE_SERVICE},
    *({"service": "inference.GRPCInferenceService", "method": method} for method in _OPEN_INFERENCE_METHODS),
]
_ROUND_ROBIN: Final[dict[str, Any]] = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": ""},
}
_PICK_FIRST: Final[dict[str, Any]] = {"loadBalancingConfig": [{"pick_first": {}}]}
_RETRIES: Final = {
    "retryPolicy": {
        "maxAttempts": 4,
        "initialBackoff": "0.05s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
    }
}


def _config(balancing: dict[str, Any], method_config: dict[str, Any]) -> str:
    return json.dumps(
        {
            **balancing,
            "methodConfig": [{"name": _NAMES, **method_config}],
            "retryThrottling": {"maxTokens": 1000, "tokenRatio": 0.1},
        },
        indent=2,
    )


SERVICE_CONFIG: Final = _config(_ROUND_ROBIN, _RETRIES)
"""The default service config of every channel, as JSON."""

SERVICE_CONFIG_WITHOUT_RETRIES: Final = _config(_ROUND_ROBIN, {})
"""The same for clients with `retries=False`."""

SERVICE_CONFIG_PICK_FIRST: Final = _config(_PICK_FIRST, _RETRIES)
"""The same retries for clients in other languages that keep to one address as long as it takes calls."""
