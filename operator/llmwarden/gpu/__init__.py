"""The GPU exporter: metrics of one node under the names of dcgm-exporter. What it costs is not here: see `domain.gpuhours`. Start at `main`."""
