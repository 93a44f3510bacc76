"""What no process of the service loads, although it is installed for the commands that draw tables."""

from __future__ import annotations

import subprocess
import sys

import pytest

ROLES = {
    "edge": ("app.main", "workers.edge", "workers.edge_hypercorn", "workers.edge_uvicorn"),
    "drain": ("workers.drain_process",),
    "store": ("workers.embedded_store",),
    "migrate": ("workers.migrate",),
}


@pytest.mark.parametrize("role", ROLES)
def test_no_process_loads_what_draws_tables(role: str) -> None:
    lines = [
        "import sys",
        "from workers.process import import_what_all_need",
        f"import_what_all_need({role!r})",
        *(f"import {name}" for name in ROLES[role]),
        "assert not {'rich', 'pygments', 'httpx._main'} & sys.modules.keys()",
        "import rich.console, httpx._main",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, timeout=60)
