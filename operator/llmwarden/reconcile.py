"""observe -> build -> apply -> publish (see ARCHITECTURE.md)."""
