"""What no process of the service loads, although it is installed for the commands that draw tables."""

from __future__ import annotations

import subprocess
import sys

ROLES = (
    *("app.main", "workers.edge", "workers.edge_hypercorn", "workers.edge_uvicorn"),
    *("workers.drain_process", "workers.embedded_store", "workers.migrate"),
)


def test_no_process_loads_what_draws_tables() -> None:
    lines = [
        "import sys",
        "from workers.process import import_what_all_need",
        "import_what_all_need('edge')",
        *(f"import {name}" for name in ROLES),
        "assert not {'rich', 'pygments', 'httpx._main'} & sys.modules.keys()",
        "import rich.console, httpx._main",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, timeout=60)
