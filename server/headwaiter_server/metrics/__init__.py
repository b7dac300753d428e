"""Metrics: what they are, what is counted, and the port where it is read. Nothing else imports prometheus_client."""

from headwaiter_server.metrics.definitions import OTHER
from headwaiter_server.metrics.endpoint import MetricsEndpoint
from headwaiter_server.metrics.recorder import CallFacts, Metrics

__all__ = ["OTHER", "CallFacts", "Metrics", "MetricsEndpoint"]
