"""What is asked of each proxy. Names, numbers and nothing else."""

from dataclasses import dataclass
from typing import Any, Final

CHUNKS: Final = 64


@dataclass(frozen=True)
class Workload:
    """One way to load a proxy. A rate of 0 keeps all connections busy; times are seconds, `gap` microseconds between chunks."""

    name: str
    what: str
    seconds: float
    connections: int
    rate: float = 0.0
    stream: bool = False
    gap: int = 0
    prompt: int = 60
    warmup: float = 0.25
    spread: float = 0.0

    @property
    def model(self) -> str:
        """The model by which the mock knows what to answer."""
        return f"bench-stream-{CHUNKS}-{self.gap}" if self.stream else "bench-short"

    def order(self, target: str, pids: list[int], *, seed: int, exact: bool) -> dict[str, Any]:
        """The order to the load generator (go/drive/load.go)."""
        return {
            "target": target,
            "model": self.model,
            "stream": self.stream,
            "prompt": self.prompt,
            "connections": self.connections,
            "rate": self.rate,
            "spread": self.spread,
            "warmup": self.warmup,
            "seconds": self.seconds,
            "exact": exact,
            "pids": pids,
            "seed": seed,
        }


SHORT: Final = Workload("short", "short JSON answers, 2,000 requests/s, Poisson", 1.0, 64, rate=2000.0)
BEST: Final = Workload("best", "short JSON answers, 64 connections always busy", 0.8, 64)
BURST: Final = Workload("burst", "64-chunk streams at 0 ms per chunk, 8 connections always busy", 0.6, 8, stream=True)
PACED: Final = Workload(
    "paced", "64-chunk streams at 5 ms per chunk, 16 at once", 1.0, 16, stream=True, gap=5000, spread=0.33, warmup=0.4
)
PROMPT: Final = Workload("prompt", "128 KB prompts, short answers, 400 requests/s", 0.6, 16, rate=400.0, prompt=131072)
CROWD: Final = Workload(
    "crowd",
    "200 concurrent 64-chunk streams at 25 ms per chunk",
    1.2,
    200,
    stream=True,
    gap=25000,
    spread=1.6,
    warmup=1.8,
)
ALL: Final = (SHORT, BEST, BURST, PACED, PROMPT, CROWD)
OVER_TLS: Final = (SHORT, BEST, PACED)
SLOW: Final = Workload("slow", "short JSON answers, 2 connections always busy", 2.0, 2)  # for LiteLLM
MODELS: Final = tuple(dict.fromkeys(item.model for item in ALL))
