"""A Redis of the subject's own: the product's redis.conf, on the disk, with nothing rewritten meanwhile."""

from __future__ import annotations

from pathlib import Path

import redis

from bench.context import Bench
from bench.process import wait_until
from workers import redis_server

START_SECONDS = 20.0


class OwnRedis:
    """Started on the core of the load. `durability` as in deploy.toml: always or everysec."""

    def __init__(self, bench: Bench, directory: Path, durability: str) -> None:
        self._bench = bench
        self.socket = bench.socket()
        self.url = f"unix://{self.socket}"
        conf = directory / "redis.conf"
        text = redis_server.configuration(directory, self.socket, appendfsync=durability)
        conf.write_text(f"{text}auto-aof-rewrite-percentage 0\n")
        log = directory / "redis.log"
        command = [str(redis_server.find().path), str(conf)]
        self.process = bench.keeper.start(command, log=log, on=bench.load_core)
        self.client: redis.Redis = redis.Redis.from_url(self.url)
        wait_until(self._answers, START_SECONDS, "Redis", log)

    def stop(self) -> None:
        self.client.close()
        self._bench.keeper.kill(self.process)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.exceptions.ConnectionError:
            return False
