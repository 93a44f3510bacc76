"""Python imports this at every start: so processes that a test starts are without the safeguard, too."""

import os

if os.environ.get("CHAOS_SABOTAGE"):
    import tests.chaos.sabotage  # noqa: F401
