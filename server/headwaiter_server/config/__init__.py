"""Every setting of the server: one schema for flags, environment, file and documentation.

Flags win over `HEADWAITER_*` environment variables, those over the TOML file, that over the defaults. A setting nobody
knows is refused, wherever it stands. No other package reads the environment.
"""

from headwaiter_server.config.checks import ENV_PREFIX, is_local, split_address
from headwaiter_server.config.loading import load_settings, user_cache_folder
from headwaiter_server.config.reference import as_toml, describe_settings
from headwaiter_server.config.schema import (
    AUTO,
    DEFAULT_SLO_SECONDS,
    Auto,
    Batching,
    CalibrationMode,
    NonfiniteInputs,
    ServerSettings,
)

__all__ = [
    "AUTO",
    "DEFAULT_SLO_SECONDS",
    "ENV_PREFIX",
    "Auto",
    "Batching",
    "CalibrationMode",
    "NonfiniteInputs",
    "ServerSettings",
    "as_toml",
    "describe_settings",
    "is_local",
    "load_settings",
    "split_address",
    "user_cache_folder",
]
