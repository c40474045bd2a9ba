"""What the proxy costs beside other proxies: `make bench-datapath` (docs/performance.md)."""
