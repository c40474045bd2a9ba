"""LLM Warden: makes every LLM service in a Kubernetes cluster measured, affordable and trustworthy."""

__version__ = "0.1.0"
