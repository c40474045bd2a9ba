"""The demo: LLM Warden at work in a real cluster, in steps that the end-to-end tests use too."""
