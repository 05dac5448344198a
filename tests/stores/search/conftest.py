from engines import *  # noqa: F403 — its fixtures
